"""Activation memory of models side by side: stock ONNX Runtime, its best options, and what dlc makes of its plan."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from dlc.allocations import RunPlan
from dlc.artifact import MODEL, write_model
from dlc.bench import Subject, inputs_for, subjects_of
from dlc.harness.growth import growth
from dlc.harness.measure import latency, summarise
from dlc.harness.ratios import fastest
from dlc.manifest import Latency
from dlc.planning import Prepared, prepare
from dlc.progress import Progress
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.planned import PlannedRunner
from dlc.runtimes.run_growth import Growth
from dlc.runtimes.session import SessionConfig, resting
from dlc.types import Bytes, Feeds

STOCK, BEST, OPTIONS, PLANNED = "stock", "stock, best options", "dlc options", "dlc planned"
SWITCHES = ("arena", "mem_pattern", "mem_reuse")
"""What a stock session can turn off to save memory."""


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """How one model runs in one way.

    ``growth``: bytes by which the peak of a process rises while runs are under way. ``planned``: what the plan says of
    that, the arena and the outputs. ``misses``: allocations that were not served as planned. ``exact``: the outputs are
    those of the stock session, bit by bit. ``note``: the options that were best, or why a tier is not in force.
    """

    model: str
    way: str
    growth: Bytes
    latency: Latency
    exact: bool
    planned: Bytes | None = None
    misses: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Way:
    model: Path
    config: SessionConfig
    growth: Bytes
    plan: RunPlan | None = None
    facts: Mapping[str, object] = field(default_factory=dict)

    def runner(self) -> OrtCpuRunner:
        config = resting(self.config)
        return PlannedRunner(self.model, [self.plan], config) if self.plan else OrtCpuRunner(self.model, config)


def bench_memory(
    paths: Sequence[Path], dims: Mapping[str, int], *, rounds: int, threads: int | None, seed: int, progress: Progress
) -> list[MemoryRow]:
    """Measure every model of every path in every way: memory in processes of their own, latency in turns in this one.

    Unsupported names a model whose options ask for another provider than the CPU.
    """
    subjects, rng = subjects_of(paths, threads), np.random.default_rng(seed)
    rows: list[MemoryRow] = []
    for subject in subjects:
        progress.stage(subject.name, 2 ** len(SWITCHES) + 3)
        with OrtCpuRunner(subject.model, subject.config) as runner:
            feeds = inputs_for(subjects, runner.interface, dims, rng)
        rows += compare_memory(subject, feeds, rounds=rounds, rng=rng, progress=progress)
    return rows


def compare_memory(
    subject: Subject, feeds: Feeds, *, rounds: int, rng: np.random.Generator, progress: Progress, processes: int = 1
) -> list[MemoryRow]:
    """Measure one model in every way; the first row is the stock session, against which latency is a ratio.

    ``processes``: in which each way is measured; the least growth counts, as a heap grows by chance but never shrinks.
    """
    with tempfile.TemporaryDirectory(prefix="dlc-") as scratch:
        prepared = prepare(subject.model, feeds, subject.config)
        write_model(Path(scratch), prepared.model)
        progress.advance()
        ways = _stock(subject, feeds, progress, processes)
        ways |= _planned(Path(scratch) / MODEL, prepared, feeds, progress, processes)
        with ExitStack() as stack:
            runners = {name: stack.enter_context(way.runner()) for name, way in ways.items()}
            outputs = {name: runner.run(feeds) for name, runner in runners.items()}
            samples = latency(runners, feeds, rounds=rounds, rng=rng)
    return [
        MemoryRow(
            subject.name, name, way.growth,
            summarise(samples[name], fastest(samples[name], samples[STOCK])),
            all(np.array_equal(outputs[name][k], y, equal_nan=y.dtype.kind == "f") for k, y in outputs[STOCK].items()),
            **way.facts,  # type: ignore[arg-type]
        )
        for name, way in ways.items()
    ]  # fmt: skip


def _least(processes: int, model: Path, config: SessionConfig, feeds: Feeds, plan: RunPlan | None = None) -> Growth:
    return min((growth(model, config, feeds, plan) for _ in range(processes)), key=lambda found: found.growth)


def _stock(subject: Subject, feeds: Feeds, progress: Progress, processes: int) -> dict[str, _Way]:
    """Measure stock with every choice of its options; the best is the smallest."""
    measured: dict[tuple[bool, ...], _Way] = {}
    for choice in itertools.product((True, False), repeat=len(SWITCHES)):
        config = msgspec.structs.replace(subject.config, **dict(zip(SWITCHES, choice, strict=True)))
        off = ", ".join(f"{name} off" for name, on in zip(SWITCHES, choice, strict=True) if not on)
        grown = _least(processes, subject.model, config, feeds).growth
        measured[choice] = _Way(subject.model, config, grown, facts={"note": off or "the defaults"})
        progress.advance()
    first = next(iter(measured.values()))
    return {STOCK: first, BEST: min(measured.values(), key=lambda way: way.growth)}


def _planned(file: Path, prepared: Prepared, feeds: Feeds, progress: Progress, processes: int) -> dict[str, _Way]:
    plan, config = prepared.plan, prepared.config
    by_options = _least(processes, file, config, feeds)
    progress.advance()
    run = plan.run
    served = _least(processes, file, config, feeds, run)
    progress.advance()
    assert served.tier is not None
    assert served.counts is not None
    facts = {"planned": run.arena + run.escaping, "misses": served.counts.misses, "note": served.tier.reason}
    return {OPTIONS: _Way(file, config, by_options.growth), PLANNED: _Way(file, config, served.growth, run, facts)}
