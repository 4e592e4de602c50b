"""How far running a model grows its process: ``python -m dlc.runtimes.run_growth REQUEST.json`` prints it as JSON.

What is measured is the peak of the resident set while runs are under way, less what was resident before the first.
So that this is the runs' own memory: the model has been loaded and run once before by a session that is gone, so the
kernels' code is resident, and the heap has given back all that it could.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from dlc.allocations import RunPlan
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.planned import PlannedRunner, Tier
from dlc.runtimes.planned_library import Counts
from dlc.runtimes.session import SessionConfig
from dlc.types import Array, Bytes, Feeds

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to run; ``feeds``: an archive of the arrays of ``inputs`` in order. Without a plan a plain session runs."""

    model: str
    config: SessionConfig
    feeds: str
    inputs: tuple[str, ...]
    runs: int
    plan: RunPlan | None = None


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """``growth`` in bytes; ``tier`` and ``counts`` if there was a plan."""

    growth: Bytes
    tier: Tier | None = None
    counts: Counts | None = None


def measure(request: Request) -> Growth:
    """Run as asked, in this process."""
    with np.load(request.feeds) as file:
        feeds = {name: file[f"arr_{i}"] for i, name in enumerate(request.inputs)}
    with OrtCpuRunner(Path(request.model), request.config) as runner:
        runner.run(feeds)
    if request.plan is None:
        with OrtCpuRunner(Path(request.model), request.config) as runner:
            return Growth(growth=_growth(runner, feeds, request.runs))
    with PlannedRunner(Path(request.model), [request.plan], request.config) as planned:
        growth = _growth(planned, feeds, request.runs)
        return Growth(growth=growth, tier=planned.tier, counts=planned.counts)


def _growth(runner: OrtCpuRunner, feeds: Feeds, runs: int) -> Bytes:
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR.write_text("5", encoding="ascii")  # the peak starts afresh
    before = _status("VmRSS")
    for _ in range(runs):
        runner.infer(feeds)
    return _status("VmHWM") - before


def _status(field: str) -> Bytes:
    line = next(t for t in STATUS.read_text(encoding="ascii").splitlines() if t.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def save(feeds: Mapping[str, Array], path: Path) -> tuple[str, ...]:
    """Write feeds down as a request wants them; return the names of the inputs."""
    np.savez(path, *feeds.values())
    return tuple(feeds)


if __name__ == "__main__":
    asked = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Request)
    sys.stdout.buffer.write(msgspec.json.encode(measure(asked)))
