"""Target files: a machine that is elsewhere, described in JSON, with the costs that were measured on it, if any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from dlc.cost_table import Cost
from dlc.errors import UserError
from dlc.pretty import pretty_json
from dlc.target import Target
from dlc.versions import limits

OLDEST_OPSET, OLDEST_IR = 13, 10
"""Per-channel quantization came with opset 13, 4-bit weights with IR version 10."""

Costs = Mapping[str, Cost]


def save(path: Path, target: Target, costs: Costs | None = None) -> None:
    """Write a target file; with ``costs``, they alone decide what is rewritten for it."""
    content = asdict(target) | ({} if costs is None else {"costs": dict(costs)})
    path.write_bytes(pretty_json(content))


def load(path: Path) -> tuple[Target, Costs | None]:
    """Read a target file; UserError if it is missing or not one."""
    try:
        content: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        costs = msgspec.convert(content.pop("costs", None), dict[str, Cost] | None)
        target = msgspec.convert(content, Target)
    except OSError as error:
        raise UserError(f"target file {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise UserError(f"target file {path}: {error}") from error
    if target.threads < 1:
        raise UserError(f"target file {path}: threads={target.threads}, at least one is needed")
    opset, ir_version = limits(target.runtime.rpartition(" ")[2])
    if not (OLDEST_OPSET <= target.opset <= opset and OLDEST_IR <= target.ir_version <= ir_version):
        raise UserError(
            f"target file {path}: {target.runtime} takes opset {OLDEST_OPSET} to {opset} and IR version {OLDEST_IR} to "
            f"{ir_version}, not {target.opset} and {target.ir_version}"
        )
    return target, costs
