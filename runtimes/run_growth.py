"""How far running a model grows its process: ``python -m dlc.runtimes.run_growth REQUEST.json`` prints it as JSON.

What is measured is the peak of the resident set while runs are under way, less what was resident before the first.
So that this is the runs' own memory: the model has been loaded and run once before by a session that is gone, so the
kernels' code is resident, and the heap has given back all that it could.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import msgspec

from dlc.allocations import RunPlan
from dlc.runtimes import child
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.peak_rss import status
from dlc.runtimes.planned import PlannedRunner, Tier
from dlc.runtimes.planned_library import Counts
from dlc.types import Bytes, Feeds

CLEAR = Path("/proc/self/clear_refs")


class Request(child.Request, frozen=True, kw_only=True):
    """Without a plan a plain session runs."""

    runs: int
    plan: RunPlan | None = None


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """``growth`` in bytes; ``tier`` and ``counts`` if there was a plan."""

    growth: Bytes
    tier: Tier | None = None
    counts: Counts | None = None


def measure(request: Request) -> Growth:
    """Run as asked, in this process."""
    feeds = request.arrays()
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
    before = status("VmRSS")
    for _ in range(runs):
        runner.infer(feeds)
    return status("VmHWM") - before


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(measure(child.asked_of_this_process(Request))))
