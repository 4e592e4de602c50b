"""What loading and running a model adds to a process: ``python -m dlc.runtimes.added REQUEST.json`` prints it as JSON.

The peak of the resident set from before the session opens until after its runs, less what was resident before.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from dlc.allocations import RunPlan
from dlc.errors import CapabilityError
from dlc.runtimes import child
from dlc.runtimes.ort import import_onnxruntime
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.peak_rss import STATUS, peak
from dlc.runtimes.planned import PlannedRunner
from dlc.runtimes.session import SessionConfig, check_cpu
from dlc.types import Bytes, Feeds

RUNS = 3


class Request(child.Request, frozen=True, kw_only=True):
    """With a plan, at its offsets."""

    plan: RunPlan | None = None


class Added(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes at the peak; ``tier``: how activations were held, where there was a plan, and why not at its offsets."""

    bytes: Bytes
    tier: str = ""


def check_measurable(provider: str) -> None:
    """Raise Unsupported for a provider that is not the CPU, CapabilityError where no peak can be read."""
    check_cpu(provider)
    if not STATUS.exists():
        raise CapabilityError("the memory that a model adds to a process is measured on Linux only")


def added(model: Path, feeds: Feeds, config: SessionConfig, plan: RunPlan | None = None) -> Added:
    """Measure in a fresh process; ModelError if it fails there, and what ``check_measurable`` raises."""
    check_measurable(config.provider)
    _, printed = child.run_child("dlc.runtimes.added", Request, model, config, feeds, plan=plan)
    return msgspec.json.decode(printed, type=Added)


def measure(request: Request) -> Added:
    """Run as asked, in this process."""
    feeds, model = request.arrays(), Path(request.model)
    plain = OrtCpuRunner(model, request.config)
    runner = plain if request.plan is None else PlannedRunner(model, [request.plan], request.config)
    import_onnxruntime()
    before = peak()
    with runner:
        for _ in range(RUNS):
            runner.run(feeds)
        tier = f"{runner.tier.name} {runner.tier.reason}".strip() if isinstance(runner, PlannedRunner) else ""
    return Added(bytes=peak() - before, tier=tier)


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(measure(child.asked_of_this_process(Request))))
