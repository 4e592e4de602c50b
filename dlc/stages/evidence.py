"""Everything that is measured about the variants of one compile, on the files that will ship."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from dlc import manifest
from dlc.artifact import MODEL
from dlc.export import Exported
from dlc.feeds import seeded_feeds, typical_sizes
from dlc.harness import statistics
from dlc.harness.accuracy import Evaluation, Metric, evaluate
from dlc.harness.memory import Rss, peak_rss, sizes
from dlc.harness.slices import compared, labels
from dlc.interface import Interface
from dlc.lookup import load
from dlc.progress import Progress
from dlc.recipe import Dataset, Recipe
from dlc.runtimes import RUNTIMES
from dlc.runtimes.base import Runner
from dlc.runtimes.eager import EagerRunner
from dlc.runtimes.session import SessionConfig, resting
from dlc.stages.timing import Timed, time
from dlc.types import Feeds

SEEDED_BATCHES = 16
STARTS, SLOW_MS = 3, 1000.0
"""Processes that start a model, of which the fastest counts; a start that is slower than this is not repeated."""
REFERENCE = "reference"
BASELINE = "baseline"


@dataclass(frozen=True, slots=True)
class Subject:
    """A model on disk, and the session options it is measured with."""

    name: str
    folder: Path
    config: SessionConfig

    def runner(self) -> Runner:
        """Return a runner of the file."""
        runner: Runner = load(RUNTIMES[self.config.provider])(self.folder / MODEL, self.config)
        return runner

    def among_others(self) -> Runner:
        """Return a runner that is timed in turns with others, and takes no CPU from them meanwhile."""
        return Subject(self.name, self.folder, resting(self.config)).runner()

    @property
    def files(self) -> list[Path]:
        """The model and its external data."""
        return sorted(self.folder.glob(f"{MODEL}*"))


@dataclass(frozen=True, slots=True)
class Measured:
    """All that was measured about one subject; accuracy and agreement are None for the baseline."""

    latency: manifest.Latency
    size: manifest.Size
    rss: Rss
    accuracy: manifest.Accuracy | None = None
    agreement: manifest.Agreement | None = None
    fault: str | None = None
    slices: tuple[manifest.SliceRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured: the reference's metric on so many examples, and every subject by name."""

    reference: str
    value: manifest.Estimate | None
    examples: int
    timed: Timed
    of: Mapping[str, Measured]


def gather(
    baseline: Subject, variants: Sequence[Subject], recipe: Recipe, exported: Exported, *, evaluating: bool,
    seed: int, progress: Progress,
) -> Evidence:  # fmt: skip
    """Measure the baseline (stock ONNX Runtime, the graph as exported) and the variants side by side."""
    rng = np.random.default_rng(seed)
    feeds = seeded_feeds(Interface.of(exported.model), exported.inputs, typical_sizes(exported.dims), rng)
    subjects = [baseline, *variants]
    with ExitStack() as stack:
        judge: Runner = stack.enter_context(_reference(baseline, exported))
        runners = {s.name: stack.enter_context(s.runner()) for s in subjects}
        scores = _score({REFERENCE: judge, **runners}, recipe, exported, progress, seed, evaluating=evaluating)
    timed = time({s.name: s.among_others for s in subjects}, BASELINE, feeds, rng=rng, progress=progress)
    progress.stage("measure memory", len(subjects))
    base_size = sizes(baseline.files)
    measured: dict[str, Measured] = {}
    for subject in subjects:
        measured[subject.name] = Measured(
            timed.latency(subject.name),
            sizes(subject.files, base_size),
            _process(subject, feeds),
            _accuracy(recipe, scores[REFERENCE], scores[subject.name], seed),
            scores[subject.name].agreement,
            scores[subject.name].fault,
            _slices(recipe, scores[REFERENCE], scores[subject.name], seed),
        )
        progress.advance()
    value = _reference_value(recipe.metric, scores[REFERENCE], seed)
    return Evidence(judge.name, value, scores[REFERENCE].examples, timed, measured)


def _process(subject: Subject, feeds: Feeds) -> Rss:
    """Measure peak memory, and the start: what else the machine does makes one slower, never faster."""
    path = subject.folder / MODEL
    found = [peak_rss(path, subject.config, feeds)]
    while len(found) < STARTS and found[0].load_ms + found[0].first_ms < SLOW_MS:
        found.append(peak_rss(path, subject.config, feeds, runs=1))
    fastest = min(found, key=lambda each: each.load_ms + each.first_ms)
    return replace(found[0], load_ms=fastest.load_ms, first_ms=fastest.first_ms)


def _reference(baseline: Subject, exported: Exported) -> Runner:
    """Eager torch where there is a module, else the graph as it was exported, without any optimisation."""
    if exported.eager is not None:
        return EagerRunner(exported.eager, Interface.of(exported.model))
    return Subject(
        REFERENCE, baseline.folder, msgspec.structs.replace(baseline.config, graph_optimization="none")
    ).runner()


def _score(
    runners: Mapping[str, Runner], recipe: Recipe, exported: Exported, progress: Progress, seed: int, *,
    evaluating: bool,
) -> dict[str, Evaluation]:  # fmt: skip
    """Run all of them over the evaluation data, else over the calibration data, else over seeded inputs."""
    if evaluating and recipe.evaluation is not None:
        progress.stage("measure accuracy")
        return evaluate(
            runners, recipe.evaluation, reference=REFERENCE, metric=recipe.metric, prediction=recipe.prediction,
            state=recipe.state, seed=seed, progress=progress,
        )  # fmt: skip
    progress.stage("measure agreement")
    unlabelled = recipe.calibration.part(recipe.calibration.batches) if recipe.calibration else seeded(exported)
    return evaluate(runners, unlabelled, reference=REFERENCE, metric=recipe.metric, seed=seed, progress=progress)


def seeded(exported: Exported) -> Dataset:
    """Make a data set of seeded inputs at typical sizes, for models that bring no data."""

    def batches() -> Iterator[Feeds]:
        rng = np.random.default_rng(0)
        for _ in range(SEEDED_BATCHES):
            yield seeded_feeds(Interface.of(exported.model), exported.inputs, typical_sizes(exported.dims), rng)

    return Dataset("seeded inputs", batches, source="random numbers within the declared bounds")


def _accuracy(recipe: Recipe, reference: Evaluation, own: Evaluation, seed: int) -> manifest.Accuracy | None:
    metric, gates = recipe.metric, recipe.gates
    if metric is None or reference.rows is None or own.rows is None:
        return None
    rng = np.random.default_rng(seed)
    record = statistics.accuracy(
        metric.name, reference.rows, own.rows, metric.statistic, rng=rng, higher_is_better=metric.higher_is_better,
        keep=gates.retention, lose=gates.max_drop,
    )  # fmt: skip
    return msgspec.structs.replace(record, unit=metric.unit)


def _slices(recipe: Recipe, reference: Evaluation, own: Evaluation, seed: int) -> tuple[manifest.SliceRecord, ...]:
    if recipe.metric is None or recipe.evaluation is None or reference.rows is None or own.rows is None:
        return ()
    return compared(
        recipe.metric, reference.rows, own.rows, labels(recipe.evaluation, len(own.rows)), gates=recipe.gates, seed=seed
    )  # fmt: skip


def _reference_value(metric: Metric | None, reference: Evaluation, seed: int) -> manifest.Estimate | None:
    if metric is None or reference.rows is None:
        return None
    return statistics.metric(
        reference.rows, metric.statistic, rng=np.random.default_rng(seed), higher_is_better=metric.higher_is_better
    )
