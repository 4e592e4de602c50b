"""What each step of a run took from the arena, from ONNX Runtime's own profile: exact bytes, as they were asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import onnx_ir as ir

from dlc.errors import CapabilityError
from dlc.passes.concrete_shapes import Shape
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.types import Bytes, Feeds

SUFFIX = "_kernel_time"
RUNS = 2
"""The first run of a session also takes what kernels keep; the second shows a run as it will be."""


@dataclass(frozen=True, slots=True)
class Footstep:
    """One node's run. ``taken``: bytes it kept; ``held``: bytes that all hold when it ends, before inputs are let go.

    ``peak``: most bytes held in the first run until this node ended, in the arena's own units, as ``in_use`` is when it
    ends. ``outputs``: type and shape of each tensor it wrote; types have ONNX Runtime's names.
    """

    node: str
    taken: Bytes
    held: Bytes
    in_use: Bytes
    peak: Bytes
    outputs: tuple[tuple[str, Shape], ...]


def in_planned_order(config: SessionConfig) -> SessionConfig:
    """Return the options with which ONNX Runtime runs a file in its order, and reuses no buffer of its own accord."""
    return msgspec.structs.replace(
        config, graph_optimization="none", disabled_optimizers=(), execution_order="priority", mem_reuse=False,
        mem_pattern=False,
    )  # fmt: skip


class _Walker(OrtCpuRunner):
    def configure(self, options: Any) -> None:
        options.log_severity_level = 4  # a node that cannot run alone is no news

    def footsteps(self, feeds: Feeds) -> list[Footstep]:
        for _ in range(RUNS):
            self.run(feeds)
        events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        return list(_footsteps(events))


def footsteps(model: ir.Model | Path, feeds: Feeds, config: SessionConfig) -> list[Footstep]:
    """Run a model, whose nodes have names, with the options of ``in_planned_order``; return the steps of its graph.

    ModelError if it does not run; CapabilityError if this ONNX Runtime does not count bytes (before 1.32).
    """
    with _Walker(model, config, profile=True) as runner:
        found = runner.footsteps(feeds)
    first, last = found[: len(found) // RUNS], found[len(found) - len(found) // RUNS :]
    return [replace(b, peak=a.peak) for a, b in zip(first, last, strict=True)]


def _footsteps(events: list[dict[str, Any]]) -> Iterator[Footstep]:
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith(SUFFIX):
            continue
        counted = event["args"]
        if "mem_bytes_requested_in_use" not in counted:
            raise CapabilityError(
                "this ONNX Runtime does not count the bytes of a run: pip install 'onnxruntime>=1.32'"
            )
        yield Footstep(
            node=event["name"].removesuffix(SUFFIX),
            taken=int(counted["mem_requested_in_use_delta"]),
            held=int(counted["mem_bytes_requested_in_use"]),
            in_use=int(counted["mem_bytes_in_use"]),
            peak=int(counted["mem_in_use_peak"]),
            outputs=tuple((kind, tuple(s)) for each in counted["output_type_shape"] for kind, s in each.items()),
        )
