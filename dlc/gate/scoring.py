"""Runs the recipe's evaluation data through all models of a gate, once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from dlc.artifact import read_golden
from dlc.bench import sizes_to_time
from dlc.data import inspect
from dlc.errors import DataError
from dlc.gate.leakage import look
from dlc.gate.observation import DataSeen, Slicing
from dlc.gate.subjects import Judged, seeded
from dlc.gate.witness import Witness, digest
from dlc.harness.accuracy import Evaluation, Metric, evaluate
from dlc.harness.slices import labels
from dlc.interface import Interface
from dlc.progress import Progress
from dlc.recipe import Dataset, Recipe
from dlc.runtimes.base import Runner
from dlc.types import Feeds

SEEDED_BATCHES = 16


@dataclass(frozen=True, slots=True)
class Scored:
    """What the data told, by name of the model. ``data`` and ``metric`` are None where inputs were drawn at random.

    ``drawn``: SHA-256 of those.
    """

    data: DataSeen | None
    metric: Metric | None
    of: Mapping[str, Evaluation]
    outputs: Mapping[str, str]
    drawn: str = ""


def score(
    recipe: Recipe | None, interface: Interface, reference: Judged, runners: Mapping[str, Runner], seed: int,
    progress: Progress,
) -> Scored:  # fmt: skip
    """Measure the task's metric and the agreement with the reference; without data, the agreement on seeded inputs."""
    witnesses = {name: Witness(runner) for name, runner in runners.items()}
    dataset, metric, data = _drawn(reference, interface, seed), None, None
    if recipe is not None and recipe.evaluation is not None:
        dataset, metric = recipe.evaluation, recipe.metric
        data = _checked(recipe, dataset, interface)
    prediction, state = (recipe.prediction, recipe.state) if data is not None and recipe is not None else (None, {})
    found = evaluate(
        witnesses, dataset, reference=reference.name, metric=metric, prediction=prediction, state=state,
        seed=seed, progress=progress,
    )  # fmt: skip
    if data is not None:
        data = msgspec.structs.replace(data, sizes=witnesses[reference.name].sizes)
    drawn = digest(dataset.batches()) if data is None else ""
    return Scored(data, metric, found, {name: w.digest for name, w in witnesses.items()}, drawn)


def _checked(recipe: Recipe, dataset: Dataset, interface: Interface) -> DataSeen:
    metric = recipe.metric
    if metric is not None and dataset.targets is None:
        raise DataError(f"data set {dataset.name!r} has no targets, so {metric.name} cannot be computed")
    found = inspect(dataset, interface, recipe.state)
    slicings: tuple[Slicing, ...] = ()
    if dataset.slices and metric is not None and dataset.targets is not None:
        cut = labels(dataset, len(dataset.targets()))
        slicings = tuple(Slicing.of(name, given) for name, given in cut.items())
    return DataSeen(
        name=dataset.name, sha256=found.sha256, examples=found.examples, sizes={}, slicings=slicings,
        leakage=look(recipe.calibration, found, interface),
    )  # fmt: skip


def _drawn(reference: Judged, interface: Interface, seed: int) -> Dataset:
    sizes = sizes_to_time(interface, read_golden(reference.subject.folder)[0][0], {})

    def batches() -> Iterator[Feeds]:
        return (seeded(reference, interface, sizes, seed + index) for index in range(SEEDED_BATCHES))

    return Dataset("seeded inputs", batches, source="random numbers in the range of the golden vectors")
