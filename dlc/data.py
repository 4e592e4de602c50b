"""Checks of the data that a recipe brings, in one pass, before hours are spent on it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from dlc.contract import check_whole
from dlc.duplicates import Signatures, near
from dlc.errors import DataError, DlcError
from dlc.harness.sequences import steps
from dlc.interface import Interface
from dlc.recipe import Dataset
from dlc.runtimes.base import check_finite
from dlc.types import Array, Feeds

NEARLY = "{} calibration examples are near duplicates of evaluation examples: accuracy may flatter"
DIGEST = 16
"""Bytes of an example's hash; among a billion examples the chance of one false match is about 1e-21."""


@dataclass(frozen=True, slots=True)
class DataSummary:
    """What a data set holds. ``sha256`` covers every byte fed and every target; ``hashes`` has one entry an example.

    ``signatures``: what near duplicates have in common.
    """

    examples: int
    batches: int
    sha256: str
    hashes: tuple[bytes, ...]
    signatures: Signatures = field(default_factory=Signatures, compare=False, repr=False)


def inspect(dataset: Dataset, interface: Interface, state: Mapping[str, str] | None = None) -> DataSummary:
    """Read a data set once; DataError names the batch and the input that does not fit the model.

    ``state``: what a stateful model feeds back; a batch is then a sequence, each step of which must fit.
    """
    seen, hashes, signatures, batches = hashlib.sha256(), list[bytes](), Signatures(), 0
    for where, feeds in checked(dataset, interface, state):
        for name in sorted(feeds):
            _update(seen, name, feeds[name])
        before = len(hashes)
        for each in steps(feeds, state or {}):
            if not (rows := list(_hashes(each, interface))):
                continue
            signatures.add({name: each[name] for name in _batched(each, interface)}, len(rows))
            hashes.extend(rows)
        if len(hashes) == before:
            raise DataError(f"{where} holds no example; leave empty batches out")
        batches += 1
    if not hashes:
        raise DataError(f"data set {dataset.name!r} is empty: batches() gave none")
    if (targets := _targets(dataset)) is not None:
        _check_targets(dataset.name, targets, len(hashes), batches)
        _update(seen, "targets", targets)
    if dataset.contract is not None:
        check_whole(dataset.contract, dataset.name, len(hashes), seen.hexdigest())
    return DataSummary(len(hashes), batches, seen.hexdigest(), tuple(hashes), signatures)


def leaked(calibration: DataSummary, evaluation: DataSummary) -> int:
    """Count the calibration examples that are evaluation examples too, byte for byte."""
    known = set(evaluation.hashes)
    return sum(h in known for h in calibration.hashes)


def nearly_leaked(calibration: DataSummary, evaluation: DataSummary) -> int:
    """Count the calibration examples that are nearly evaluation examples, and are none byte for byte."""
    known = set(evaluation.hashes)
    other = np.array([h not in known for h in calibration.hashes])
    return int((near(calibration.signatures, evaluation.signatures) & other).sum())


def checked(
    dataset: Dataset, interface: Interface, state: Mapping[str, str] | None = None
) -> Iterator[tuple[str, dict[str, Array]]]:
    """Yield the batches, each with its name for messages; DataError for one that does not fit the model."""
    for where, feeds in _batches(dataset):
        _located(where, interface, feeds, state or {})
        check_finite(feeds, where)
        yield where, feeds


def _batches(dataset: Dataset) -> Iterator[tuple[str, dict[str, Array]]]:
    where = "before its first batch"
    try:
        for index, feeds in enumerate(dataset.batches()):
            yield f"data set {dataset.name!r}, batch {index}", _arrays(dataset.name, index, feeds)
            where = f"after batch {index}"
    except DlcError:
        raise
    except Exception as error:
        raise DataError(f"data set {dataset.name!r} fails {where}: {type(error).__name__}: {error}") from error


def _targets(dataset: Dataset) -> Array | None:
    try:
        return None if dataset.targets is None else np.asarray(dataset.targets())
    except DlcError:
        raise
    except Exception as error:
        raise DataError(
            f"the targets of data set {dataset.name!r} cannot be read: {type(error).__name__}: {error}"
        ) from error


def _arrays(name: str, index: int, feeds: object) -> dict[str, Array]:
    if not isinstance(feeds, Mapping):
        raise DataError(
            f"data set {name!r}, batch {index}: a batch maps input names to arrays, not {type(feeds).__name__}"
        )
    return {name: np.asarray(array) for name, array in feeds.items()}


def _located(where: str, interface: Interface, feeds: Feeds, state: Mapping[str, str]) -> None:
    try:
        for each in steps(feeds, state):
            interface.check_feeds(each)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _update(seen: hashlib._Hash | hashlib.blake2b, name: str, array: Array) -> None:
    seen.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
    seen.update(np.ascontiguousarray(array).data)


def _hashes(feeds: Feeds, interface: Interface) -> Iterator[bytes]:
    """Hash each example: one row of axis 0 of every input that has the batch dimension, and the rest whole."""
    batched = _batched(feeds, interface)
    shared = hashlib.blake2b(digest_size=DIGEST)
    for name in sorted(feeds.keys() - batched):
        _update(shared, name, feeds[name])
    rows = next((len(feeds[name]) for name in batched), 1)
    for row in range(rows):
        each = shared.copy()
        for name in sorted(batched):
            _update(each, name, feeds[name][row])
        yield each.digest()


def _batched(feeds: Feeds, interface: Interface) -> set[str]:
    """Inputs whose axis 0 is the batch: that of the first input whose axis 0 is dynamic, else of the first input."""
    first = {t.name: t.shape[0] for t in interface.inputs if t.shape}
    batch = next((d for d in first.values() if isinstance(d, str)), next(iter(first.values()), None))
    return {t.name for t in interface.inputs if feeds[t.name].ndim and first.get(t.name) == batch}


def _check_targets(name: str, targets: Array, examples: int, batches: int) -> None:
    """A prediction may join rows: some of them (both sentences of a pair), or a whole batch (the parts of a voice)."""
    count = len(targets) if targets.ndim else 0
    if count == 0 or (examples % count and count != batches):
        raise DataError(f"data set {name!r} has {count} targets for {examples} examples; give one target an example")
    if targets.dtype.kind != "f":
        return
    finite = np.isfinite(targets.reshape(count, -1)).all(axis=1)
    if not finite.all():
        raise DataError(f"data set {name!r}: target {int(finite.argmin())} is NaN or infinite; drop that example")
