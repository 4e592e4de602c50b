"""Runs a model as a module of dlc asks, in a process of its own: ``python -m MODULE REQUEST.json``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from dlc.errors import ModelError
from dlc.runtimes.session import SessionConfig
from dlc.types import Feeds


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to run: ``feeds`` is an archive of the arrays of ``inputs``, in order."""

    model: str
    config: SessionConfig
    feeds: str
    inputs: tuple[str, ...]

    def arrays(self) -> Feeds:
        """Read the feeds."""
        with np.load(self.feeds) as file:
            return {name: file[f"arr_{i}"] for i, name in enumerate(self.inputs)}


Asked = TypeVar("Asked", bound=Request)


def run_child(
    module: str, kind: type[Request], model: Path, config: SessionConfig, feeds: Feeds, *,
    statuses: Collection[int] = (0,), **rest: Any,
) -> tuple[int, bytes]:  # fmt: skip
    """Return status and output of a module that is asked to run a model; ``rest``: further fields of its request.

    ModelError with its last line if it ends with another status than one of these.
    """
    with tempfile.TemporaryDirectory(prefix="dlc-") as scratch:
        arrays, asked = Path(scratch) / "feeds.npz", Path(scratch) / "request.json"
        np.savez(arrays, *feeds.values())
        request = kind(model=str(model.resolve()), config=config, feeds=str(arrays), inputs=tuple(feeds), **rest)
        asked.write_bytes(msgspec.json.encode(request))
        command = [sys.executable, "-m", module, str(asked)]
        child = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - a module of ours
    if child.returncode not in statuses:
        lines = child.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"status {child.returncode}"
        raise ModelError(f"{model} failed in a process of its own: {reason}")
    return child.returncode, child.stdout


def asked_of_this_process(kind: type[Asked]) -> Asked:
    """Read the request that the command line names."""
    return msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=kind)
