"""Where two graphs that should compute the same begin to differ: inner tensors of one name, in execution order.

Tensors are fetched some at a time, so that a graph of any size is compared in bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dlc.errors import ModelError
from dlc.inner import HELD, chunks, computed, tensor_bytes
from dlc.interface import Interface, sizes_of
from dlc.passes.weighted import label
from dlc.runtimes.trace import traced
from dlc.tolerance import distance
from dlc.types import Array, Bytes, Feeds, Floats


@dataclass(frozen=True, slots=True)
class Peak:
    """One side of a difference. ``largest``: of the finite magnitudes. ``there``: the number at the place named."""

    type: str
    largest: float
    nans: int
    there: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """A value that two graphs compute differently; ``node`` and ``op`` compute it in the second.

    ``apart``: largest difference as a share of the largest magnitude; infinite where a shape, a type, an integer or
    the place of a NaN differs. ``at``: index of the first NaN on one side alone, else of the largest difference; None
    where the shapes differ.
    """

    value: str
    node: str
    op: str
    apart: float
    at: tuple[int, ...] | None
    expected: Peak
    got: Peak


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first value that differs, and the first that has NaN in other places, where there is one."""

    first: Difference | None = None
    nan: Difference | None = None


def diverge(before: ir.Model, after: ir.Model, feeds: Feeds, bound: float, *, held: Bytes = HELD) -> Divergence:
    """Find the first value that differs by more than a bound, among those that both graphs have by name.

    ModelError if a graph does not run. Values inside of an If, a Loop or a Scan are not fetched, its outputs are.
    """
    [expected], [got] = traced(before, (), [feeds]), traced(after, (), [feeds])
    spoiled = any(_nans_differ(got[name], array) for name, array in expected.items())
    first: Difference | None = None
    for name, one, other in _pairs(before, after, feeds, held):
        if distance({name: other}, {name: one})[0] <= bound:
            continue
        found = _difference(name, after, one, other)
        first = first or found
        if _nans_differ(other, one):
            return Divergence(first, found)
        if not spoiled:
            break
    return Divergence(first)


def _pairs(before: ir.Model, after: ir.Model, feeds: Feeds, held: Bytes) -> Iterator[tuple[str, Array, Array]]:
    """Yield the values that both graphs have by name, in the order of the second, as each computes them."""
    sizes = sizes_of(Interface.of(before), feeds)
    one, other, known = tensor_bytes(before, sizes), tensor_bytes(after, sizes), set(computed(before))
    nbytes = {name: max(one[name], other[name]) for name in one.keys() & other.keys()}
    for chunk in chunks([n for n in computed(after) if n in known], nbytes, held):
        yield from _fetched(before, after, chunk, feeds)


def _fetched(
    before: ir.Model, after: ir.Model, names: Sequence[str], feeds: Feeds
) -> Iterator[tuple[str, Array, Array]]:
    """Run both graphs for some tensors; one that the runtime does not hand out is passed over."""
    try:
        [one], [other] = traced(before, names, [feeds]), traced(after, names, [feeds])
    except ModelError:
        half = len(names) // 2
        for part in (names[:half], names[half:]) if half else ():
            yield from _fetched(before, after, part, feeds)
        return
    yield from ((n, one[n], other[n]) for n in names if isinstance(one[n], np.ndarray))


def _difference(name: str, after: ir.Model, expected: Array, got: Array) -> Difference:
    node = next(n for n in after.graph for v in n.outputs if v.name == name)
    apart, at = distance({name: got}, {name: expected})[0], _where(expected, got)
    return Difference(name, label(node), node.op_type, apart, at, _peak(expected, at), _peak(got, at))


def _where(expected: Array, got: Array) -> tuple[int, ...] | None:
    if expected.shape != got.shape or not expected.size or "O" in (expected.dtype.kind, got.dtype.kind):
        return None
    one, other = _floats(expected), _floats(got)
    odd = np.isnan(one) != np.isnan(other)
    with np.errstate(invalid="ignore"):  # infinity less infinity is no difference
        apart = odd if odd.any() else np.nan_to_num(np.abs(one - other))
    return tuple(int(i) for i in np.unravel_index(int(apart.argmax()), apart.shape))


def _peak(array: Array, at: tuple[int, ...] | None) -> Peak:
    kind = f"{array.dtype}[{','.join(map(str, array.shape))}]"
    if array.dtype.kind == "O":
        return Peak(kind, 0.0, 0, None)
    numbers = _floats(array)
    finite = np.abs(numbers[np.isfinite(numbers)])
    there = None if at is None else float(numbers[at])
    return Peak(kind, float(finite.max(initial=0.0)), int(np.isnan(numbers).sum()), there)


def _nans_differ(got: Array, expected: Array) -> bool:
    """Whether one side alone has NaNs, or has them in other places."""
    if "O" in (got.dtype.kind, expected.dtype.kind):
        return False
    one, other = np.isnan(_floats(got)), np.isnan(_floats(expected))
    return not np.array_equal(one, other) if one.shape == other.shape else bool(one.any() != other.any())


def _floats(array: Array) -> Floats:
    return array.astype(np.float64)
