"""What loading and running a model adds to a process: ``python -m dlc.runtimes.added REQUEST.json`` prints it as JSON.

The peak of the resident set from before the session opens until after its runs, less what was resident before.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from dlc.allocations import RunPlan
from dlc.errors import CapabilityError, ModelError
from dlc.runtimes.ort import import_onnxruntime
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.peak_rss import peak
from dlc.runtimes.planned import PlannedRunner
from dlc.runtimes.session import SessionConfig, check_cpu
from dlc.types import Bytes, Feeds

RUNS = 3
STATUS = Path("/proc/self/status")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to run: ``feeds`` is an archive of the arrays of ``inputs`` in order; with a plan, at its offsets."""

    model: str
    config: SessionConfig
    feeds: str
    inputs: tuple[str, ...]
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
    with tempfile.TemporaryDirectory(prefix="dlc-") as scratch:
        arrays, asked = Path(scratch) / "feeds.npz", Path(scratch) / "request.json"
        np.savez(arrays, *feeds.values())
        request = Request(
            model=str(model.resolve()), config=config, feeds=str(arrays), inputs=tuple(feeds), plan=plan
        )  # fmt: skip
        asked.write_bytes(msgspec.json.encode(request))
        child = subprocess.run(  # noqa: S603 - our own module
            [sys.executable, "-m", "dlc.runtimes.added", str(asked)],
            capture_output=True, check=False,
        )  # fmt: skip
    if child.returncode:
        lines = child.stderr.decode().strip().splitlines()
        raise ModelError(f"{model} failed in a process of its own: {lines[-1] if lines else child.returncode}")
    return msgspec.json.decode(child.stdout, type=Added)


def measure(request: Request) -> Added:
    """Run as asked, in this process."""
    with np.load(request.feeds) as file:
        feeds = {name: file[f"arr_{i}"] for i, name in enumerate(request.inputs)}
    model = Path(request.model)
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
    sys.stdout.buffer.write(
        msgspec.json.encode(measure(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Request)))
    )
