"""What is promised of a data set, and the check of every batch and every label against it.

A contract says which data this is, for people and for the manifest, and what must hold of its values. It is checked
wherever the data is read: a batch before it is used, what only the whole set can tell once it has gone by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date

import numpy as np

from dlc.errors import DataError, RecipeError
from dlc.manifest import ContractRecord, Record
from dlc.types import Array, Feeds


class Field(Record, frozen=True, kw_only=True):
    """What holds of one input; what is None is not promised.

    ``shape``: extents, or a name for one that varies. ``low``, ``high``: bounds of every value that is not missing.
    ``missing``: the value that stands for a missing one, of which there is at most the share ``max_missing`` over the
    set. NaN is refused everywhere, contract or not.
    """

    dtype: str | None = None
    shape: tuple[int | str, ...] | None = None
    low: float | None = None
    high: float | None = None
    missing: float | None = None
    max_missing: float = 0.0

    def __post_init__(self) -> None:
        _check_bounds("an input", self.low, self.high)
        if not 0 <= self.max_missing <= 1:
            raise RecipeError(f"contract: max_missing={self.max_missing} is no share: write 0.01 for 1 %")
        if self.missing is not None and math.isnan(self.missing):
            raise RecipeError(
                "contract: missing=nan: NaN is refused in all data; let a number stand for what is missing"
            )
        if self.dtype is not None:
            try:
                np.dtype(self.dtype)
            except TypeError as error:
                raise RecipeError(f"contract: dtype {self.dtype!r} is none of numpy's") from error


class Labels(Record, frozen=True, kw_only=True):
    """What holds of the targets. ``classes``: all that may occur; ``least_share``, ``most_share``: of each of them."""

    classes: tuple[int, ...] | None = None
    least_share: float = 0.0
    most_share: float = 1.0
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        _check_bounds("the targets", self.low, self.high)
        if not 0 <= self.least_share <= self.most_share <= 1:
            raise RecipeError(
                f"contract: least_share={self.least_share}, most_share={self.most_share}: shares from 0 to 1, in order"
            )
        if self.classes is None and (self.least_share, self.most_share) != (0.0, 1.0):
            raise RecipeError("contract: shares are of classes: state those that may occur, classes = [0, 1]")


class DataContract(ContractRecord, frozen=True, kw_only=True):
    """Which data this is, and what must hold of it; a recipe in TOML states the same fields.

    ``sha256``: of every byte fed and every target, as ``dlc data check`` prints it. ``source``, ``label`` (what a label
    means and who gave it), ``sampling`` (how examples were chosen), ``privacy``: in words. ``window``: first and last
    day that the data is of. ``inputs`` and ``targets``: what holds of the values. ``min_examples``: fewest there are.
    """

    min_examples: int = 1
    inputs: Mapping[str, Field] = {}
    targets: Labels | None = None

    def __post_init__(self) -> None:
        if not self.id or not self.version:
            raise RecipeError("a data contract needs an id and a version, say id='scans', version='2024-06'")
        if self.sha256 is not None and not (len(self.sha256) == 64 and set(self.sha256) <= set("0123456789abcdef")):
            raise RecipeError(f"{self}: sha256 is 64 hexadecimal digits, as dlc data check prints them")
        if self.window is not None:
            _check_window(self, self.window)

    def __str__(self) -> str:
        return f"contract {self.id}/{self.version}"


def kept(contract: DataContract, name: str, batches: Callable[[], Iterable[Feeds]]) -> Callable[[], Iterator[Feeds]]:
    """Return a reader of the same batches that checks each before it hands it out; DataError says what and where."""

    def read() -> Iterator[Feeds]:
        counted = {given: [0, 0] for given, each in contract.inputs.items() if each.missing is not None}
        for index, feeds in enumerate(batches()):
            where = f"data set {name!r}, batch {index}"
            for given, promised in contract.inputs.items():
                if given not in feeds:
                    raise DataError(f"{where} breaks {contract}: it has no input {given!r}")
                array = np.asarray(feeds[given])
                if (wrong := _schema(promised, array) or _range(promised, array)) is not None:
                    raise DataError(f"{where} breaks {contract}: input {given!r} {wrong}")
                if promised.missing is not None:
                    counted[given][0] += int((array == promised.missing).sum())
                    counted[given][1] += array.size
            yield feeds
        for given, (absent, total) in counted.items():
            if total and absent > contract.inputs[given].max_missing * total:
                raise DataError(
                    f"data set {name!r} breaks {contract}: input {given!r} misses {absent} of {total} values "
                    f"({absent / total:.2%}), at most {contract.inputs[given].max_missing:.2%} may be"
                )

    return read


def kept_targets(contract: DataContract, name: str, targets: Callable[[], Array]) -> Callable[[], Array]:
    """Return a reader of the same targets that checks them; DataError says what and where."""

    def read() -> Array:
        given = np.asarray(targets())
        if contract.targets is not None and (wrong := _labels(contract.targets, given)) is not None:
            raise DataError(f"the targets of data set {name!r} break {contract}: {wrong}")
        return given

    return read


def check_whole(contract: DataContract, name: str, examples: int, sha256: str) -> None:
    """Check what only all of a data set tells: its hash, and how many examples it has."""
    if examples < contract.min_examples:
        raise DataError(
            f"data set {name!r} breaks {contract}: {examples} examples, at least {contract.min_examples} are promised"
        )
    if contract.sha256 is not None and sha256 != contract.sha256:
        raise DataError(
            f"data set {name!r} breaks {contract}: its sha256 is {sha256}, not {contract.sha256}; if the data was "
            f"changed on purpose, give the contract a new version and this hash"
        )


def _schema(promised: Field, array: Array) -> str | None:
    if promised.dtype is not None and array.dtype != np.dtype(promised.dtype):
        return f"is {array.dtype}, promised {promised.dtype}"
    if promised.shape is None:
        return None
    fits = len(array.shape) == len(promised.shape) and all(
        isinstance(want, str) or have == want for have, want in zip(array.shape, promised.shape, strict=True)
    )
    return None if fits else f"has shape {list(array.shape)}, promised {list(promised.shape)}"


def _range(promised: Field, array: Array) -> str | None:
    present = array if promised.missing is None else array[array != promised.missing]
    if not present.size or (_within(present.min(), promised) and _within(present.max(), promised)):
        return None
    low, high = _limits(promised.low, promised.high)
    outside = (array < low) | (array > high)
    if promised.missing is not None:
        outside &= array != promised.missing
    first = np.unravel_index(int(outside.argmax()), array.shape)
    return (
        f"holds {array[first]:g} at {list(map(int, first))}, outside [{low:g}, {high:g}]: {int(outside.sum())} of "
        f"{array.size} values"
    )


def _within(value: float, promised: Field) -> bool:
    low, high = _limits(promised.low, promised.high)
    return bool(low <= value <= high)


def _labels(promised: Labels, targets: Array) -> str | None:
    low, high = _limits(promised.low, promised.high)
    outside = (targets < low) | (targets > high)
    if outside.any():
        first = np.unravel_index(int(outside.argmax()), targets.shape)
        return (
            f"target {int(first[0])} is {targets[first]:g}, outside [{low:g}, {high:g}]: {int(outside.sum())} of "
            f"{targets.size}"
        )
    if promised.classes is None:
        return None
    unknown = ~np.isin(targets, promised.classes)
    if unknown.any():
        first = np.unravel_index(int(unknown.argmax()), targets.shape)
        return f"target {int(first[0])} is of class {targets[first]:g}, which is none of {list(promised.classes)}"
    for label in promised.classes:
        share = float((targets == label).mean())
        if not promised.least_share <= share <= promised.most_share:
            return (
                f"class {label} has {share:.2%} of the targets, promised {promised.least_share:.2%} to "
                f"{promised.most_share:.2%}"
            )
    return None


def _limits(low: float | None, high: float | None) -> tuple[float, float]:
    return -np.inf if low is None else low, np.inf if high is None else high


def _check_bounds(of: str, low: float | None, high: float | None) -> None:
    if low is not None and high is not None and not low <= high:
        raise RecipeError(f"contract: the bounds of {of}, low={low} and high={high}, leave no value")


def _check_window(contract: DataContract, window: tuple[str, str]) -> None:
    try:
        first, last = map(date.fromisoformat, window)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{contract}: window is the first and the last day, as 2024-01-31: {error}") from error
    if first > last:
        raise RecipeError(f"{contract}: the window ends on {last}, before it begins on {first}")
