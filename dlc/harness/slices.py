"""The task metric on parts of the evaluation data: a slice must not collapse while the mean holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

from dlc import manifest
from dlc.errors import DataError, DlcError
from dlc.harness import statistics
from dlc.harness.accuracy import Metric
from dlc.harness.proportions import ALPHA, holm
from dlc.manifest import Estimate, SliceRecord, Status
from dlc.recipe import Dataset, Gates
from dlc.types import Array, Floats

MOST = 100
"""Slices of one data set: each is a measurement of its own, and a table of more is not read."""
FEW = 30
"""Examples below which a slice can fail but decides nothing else: at 3/n, the rule of three, a tenth goes unseen."""


def labels(dataset: Dataset, examples: int) -> dict[str, Array]:
    """Read a data set's slicings, each as one label per example, as text [n]; DataError if they are not that."""
    found = {name: _labels(dataset.name, name, read, examples) for name, read in dataset.slices.items()}
    if (count := sum(len(np.unique(each)) for each in found.values())) > MOST:
        raise DataError(f"data set {dataset.name!r} has {count} slices; at most {MOST} are measured: slice it coarser")
    return found


def compared(
    metric: Metric, reference: Floats, candidate: Floats, slicings: Mapping[str, Array], *, gates: Gates, seed: int
) -> tuple[SliceRecord, ...]:
    """Measure a candidate beside the reference on each slice, in pairs; rows [n, k] as the metric gives them.

    ``gates``: what is asked of a slice, for its p-value.

    A slice on which the metric has no value for the reference, say with one class only, is recorded with the reason;
    one on which the candidate alone has none is recorded as failed.
    """
    return tuple(
        _compared(metric, reference, candidate, where, f"{name}={label}", gates, seed)
        for name, given in slicings.items()
        for label in np.unique(given)
        for where in [given == label]
    )


def collapses(slices: Sequence[SliceRecord], gates: Gates) -> Iterator[tuple[Status | None, str, float | None]]:
    """Judge the slices: a line for each that does not hold for certain, and one for those that do.

    The last of each is its p-value, corrected for the number of slices (Holm): a slice fails only beyond chance.
    """
    held: list[tuple[SliceRecord, float | None]] = []
    adjusted = _adjusted(slices)
    for each, p in zip(slices, adjusted, strict=True):
        status, doubt = _status(each, gates), ""
        if status == "fail" and p is not None and p >= ALPHA:
            status = "inconclusive" if each.examples >= FEW else None
            doubt = f"; not beyond chance (p = {p:.2g} among {len(slices)} slices)"
        if status == "pass":
            held.append((each, p))
        else:
            yield status, _line(each, gates) + doubt, p
    if held:
        worst = min((each for each, _ in held), key=lambda each: _margin(each, gates))
        least = min((p for _, p in held if p is not None), default=None)
        yield "pass", f"{len(held)} slices hold, the worst {_line(worst, gates)}", least


def _adjusted(slices: Sequence[SliceRecord]) -> list[float | None]:
    """Correct the p-values of the slices that have one for each other; that of one that failed outright is 0."""
    own = [0.0 if s.failed else s.accuracy.chance if s.accuracy else None for s in slices]
    tested = iter(holm([p for p in own if p is not None]))
    return [None if p is None else next(tested) for p in own]


def _labels(data: str, name: str, read: object, examples: int) -> Array:
    try:
        given = np.asarray(read() if callable(read) else read)
    except DlcError:
        raise
    except Exception as error:
        raise DataError(
            f"slices {name!r} of data set {data!r} cannot be read: {type(error).__name__}: {error}"
        ) from error
    if given.shape != (examples,):
        raise DataError(
            f"slices {name!r} of data set {data!r} have shape {list(given.shape)}; give one label for each of its "
            f"{examples} targets"
        )
    return given.astype(np.str_)


def _compared(
    metric: Metric, reference: Floats, candidate: Floats, where: Array, name: str, gates: Gates, seed: int
) -> SliceRecord:
    def compare(own: Floats) -> manifest.Accuracy:
        return statistics.accuracy(
            metric.name, reference[where], own[where], metric.statistic, rng=np.random.default_rng(seed),
            higher_is_better=metric.higher_is_better, keep=gates.slice_retention, lose=gates.slice_drop,
        )  # fmt: skip

    try:
        record = compare(candidate)
    except DlcError as error:
        failed = True
        try:
            compare(reference)
        except DlcError:  # then the slice is at fault, not the candidate
            failed = False
        return SliceRecord(name=name, examples=int(where.sum()), note=str(error), failed=failed)
    return SliceRecord(
        name=name, examples=record.examples, accuracy=msgspec.structs.replace(record, unit=metric.unit)
    )  # fmt: skip


def _margin(each: SliceRecord, gates: Gates) -> float:
    """How far the end of the interval that counts lies inside the limit."""
    assert each.accuracy is not None
    if gates.slice_drop is not None:
        return gates.slice_drop - each.accuracy.drop.high
    return each.accuracy.retention.low - gates.slice_retention


def _status(each: SliceRecord, gates: Gates) -> Status | None:
    if each.accuracy is None:
        return "fail" if each.failed else None
    holds, fails = _outcome(each.accuracy, gates)
    if fails:
        return "fail"
    if each.examples < FEW:
        return None
    return "pass" if holds else "inconclusive"


def _outcome(accuracy: manifest.Accuracy, gates: Gates) -> tuple[bool, bool]:
    """Whether a slice holds for certain, and whether it surely does not."""
    if gates.slice_drop is not None:
        return accuracy.drop.high <= gates.slice_drop, accuracy.drop.low > gates.slice_drop
    return accuracy.retention.low >= gates.slice_retention, accuracy.retention.high < gates.slice_retention


def _line(each: SliceRecord, gates: Gates) -> str:
    few = f", {each.examples} examples" + (" are few" if each.examples < FEW else "")
    if (accuracy := each.accuracy) is None:
        said = "has no value, and FP32 has one" if each.failed else "was not measured"
        return f"slice {each.name} {said}{few}: {each.note}"
    value = f"slice {each.name}: {accuracy.metric} {accuracy.value.value:.2f}"
    if gates.slice_drop is not None:
        unit = f" {accuracy.unit}" if accuracy.unit else ""
        return f"{value}{unit} falls {_between(accuracy.drop)} behind FP32, at most {gates.slice_drop:g}{few}"
    kept = accuracy.retention
    hundredths = Estimate(value=100 * kept.value, low=100 * kept.low, high=100 * kept.high)
    return f"{value} keeps {_between(hundredths)} % of FP32, at least {100 * gates.slice_retention:g} %{few}"


def _between(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
