"""How much memory runs of a model take, each measurement in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from dlc.allocations import RunPlan
from dlc.errors import CapabilityError
from dlc.runtimes.child import run_child
from dlc.runtimes.run_growth import CLEAR, Growth, Request
from dlc.runtimes.session import SessionConfig
from dlc.types import Feeds

RUNS = 5
"""ONNX Runtime settles its memory in the first two runs: the second is the first to follow a memory pattern."""


def growth(model: Path, config: SessionConfig, feeds: Feeds, plan: RunPlan | None = None, runs: int = RUNS) -> Growth:
    """Measure in a fresh process; ModelError if it fails, CapabilityError where the peak of a run cannot be read."""
    if not CLEAR.exists():
        raise CapabilityError(f"the memory that a run takes cannot be measured on {sys.platform}; it can on Linux")
    _, printed = run_child("dlc.runtimes.run_growth", Request, model, config, feeds, runs=runs, plan=plan)
    return msgspec.json.decode(printed, type=Growth)
