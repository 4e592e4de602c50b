"""How much memory runs of a model take, each measurement in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from dlc.allocations import RunPlan
from dlc.errors import CapabilityError, ModelError
from dlc.runtimes.run_growth import CLEAR, Growth, Request, save
from dlc.runtimes.session import SessionConfig
from dlc.types import Feeds

RUNS = 5
"""ONNX Runtime settles its memory in the first two runs: the second is the first to follow a memory pattern."""


def growth(model: Path, config: SessionConfig, feeds: Feeds, plan: RunPlan | None = None, runs: int = RUNS) -> Growth:
    """Measure in a fresh process; ModelError if it fails, CapabilityError where the peak of a run cannot be read."""
    if not CLEAR.exists():
        raise CapabilityError(f"the memory that a run takes cannot be measured on {sys.platform}; it can on Linux")
    with tempfile.TemporaryDirectory(prefix="dlc-") as scratch:
        arrays, request = Path(scratch) / "feeds.npz", Path(scratch) / "request.json"
        asked = Request(
            model=str(model.resolve()), config=config, feeds=str(arrays), inputs=save(feeds, arrays), runs=runs,
            plan=plan,
        )  # fmt: skip
        request.write_bytes(msgspec.json.encode(asked))
        command = [sys.executable, "-m", "dlc.runtimes.run_growth", str(request)]
        child = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - our own module
    if child.returncode:
        lines = child.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"status {child.returncode}"
        raise ModelError(f"{model} failed in a process of its own: {reason}")
    return msgspec.json.decode(child.stdout, type=Growth)
