"""Where the elements of a tensor come from: chains of operators that only move, split, merge or select its axes.

An axis is a sequence of factors, the slowest first; its size is their product. Transpose moves axes, Reshape regroups
factors and splits one where it must, Squeeze and Unsqueeze drop and add axes without factors (of size 1), Gather of one
index, Split and Slice fix a factor, Expand and Tile copy along one that the source does not have. What remains tells
what the whole chain does, however it is written:

    [s, b, 3*h*d] -> Reshape, Transpose, Gather -> [b*h, s, d]
    source: (s) (b) (3 h d), with 3 fixed at 0;  axes: (b h) (s) (d)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from dlc.interface import Extent
from dlc.passes.base import constant
from dlc.passes.extents import Extents, contents, extents
from dlc.passes.layouts import order

VIEWS = frozenset({
    "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
LONGEST = 16
"""Operators of the longest chain that is followed."""


@dataclass(frozen=True, eq=False, slots=True)
class Factor:
    """A factor of the size of an axis; one is another than any of the same size."""

    size: Extent


Axis = tuple[Factor, ...]


@dataclass(frozen=True, slots=True)
class View:
    """Axes of a tensor, in factors of the axes of its source, and of copies.

    ``fixed``: factors of which one index was selected.
    """

    source: tuple[Axis, ...]
    axes: tuple[Axis, ...]
    fixed: Mapping[Factor, int] = field(default_factory=dict)

    @classmethod
    def whole(cls, shape: Extents) -> View:
        """Return a tensor of this shape as it is."""
        return cls.of(tuple(map(_axis, shape)))

    @classmethod
    def of(cls, axes: tuple[Axis, ...]) -> View:
        """Return a tensor with these axes as it is."""
        return cls(axes, axes)

    def copies(self, axis: Axis) -> Axis:
        """Return the factors of an axis along which the source is copied."""
        own = {f for whole in self.source for f in whole}
        return tuple(f for f in axis if f not in own)

    def split(self, factor: Factor, sizes: tuple[int, int]) -> tuple[View, Factor, Factor]:
        """Write one factor as the product of two."""
        slow, fast = map(Factor, sizes)

        def parted(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
            return tuple(tuple(p for f in axis for p in ((slow, fast) if f is factor else (f,))) for axis in axes)

        return replace(self, source=parted(self.source), axes=parted(self.axes)), slow, fast


def size(axis: Axis) -> Extent:
    """Size of an axis: a number, or the name of a single factor; None if it is neither."""
    names = [f.size for f in axis if not isinstance(f.size, int)]
    number = math.prod(f.size for f in axis if isinstance(f.size, int))
    if not names:
        return number
    return names[0] if len(names) == 1 and number == 1 else None


def _axis(whole: Extent) -> Axis:
    return () if whole == 1 else (Factor(whole),)


def _unscaled(value: ir.Value | None) -> tuple[float, ir.Value | None]:
    return 1.0, value


def sources(
    value: ir.Value | None, scaled: Callable[[ir.Value | None], tuple[float, ir.Value | None]] = _unscaled
) -> Iterator[tuple[ir.Value, View, float]]:
    """Yield the values that a value is a view of, the farthest first, itself last, and the scale on the way.

    ``scaled`` takes a scale off a value, wherever in the chain it stands.
    """
    scale, value = scaled(value)
    chain, origins = list[tuple[ir.Value, ir.Node]](), [(value, scale)]
    while value is not None and len(chain) < LONGEST and (node := value.producer()) is not None:
        if node.op_type not in VIEWS or node.domain != "":
            break
        chain.insert(0, (value, node))
        factor, value = scaled(node.inputs[0])
        scale *= factor
        origins.insert(0, (value, scale))
    for i, (origin, scale) in enumerate(origins):
        shape = extents(origin)
        view = None if shape is None or 0 in shape else View.whole(shape)
        for output, node in chain[i:]:
            view = None if view is None else through(view, node, output)
        if origin is not None and view is not None:
            yield origin, view, scale


def through(view: View, node: ir.Node, output: ir.Value) -> View | None:  # noqa: PLR0911 - one return a kind
    """Return the view that an operator makes of a view; None if it is none, or sizes are unknown."""
    rank = len(view.axes)
    if node.op_type == "Identity":
        return view
    if node.op_type == "Transpose":
        p = order(node) or tuple(reversed(range(rank)))
        return replace(view, axes=tuple(view.axes[a] for a in p))
    if node.op_type == "Reshape":
        return _reshaped(view, node, output)
    if node.op_type in ("Squeeze", "Unsqueeze"):
        return _squeezed(view, node)
    if node.op_type in ("Expand", "Tile"):
        return _copied(view, extents(output))
    if node.op_type == "Gather":
        return _gathered(view, node, node.attributes.get_int("axis", 0) % rank)
    cut = _cut(node, output)
    return None if cut is None else _part(view, cut[0] % rank, *cut[1:])


def _reshaped(view: View, node: ir.Node, output: ir.Value) -> View | None:
    """Regroup the factors: known sizes take theirs from both ends, an unknown one in between takes what is left."""
    known = {f.size for axis in view.axes for f in axis}
    stated = extents(output)
    asked = contents(node.inputs[1]) or stated
    if asked is not None and node.attributes.get_int("allowzero", 0) == 0:
        asked = tuple(size(view.axes[i]) if a == 0 and i < len(view.axes) else a for i, a in enumerate(asked))
    if asked is None or 0 in asked:
        return None
    if stated is not None and len(stated) == len(asked):
        asked = tuple(s if a in (-1, None) else a for a, s in zip(asked, stated, strict=True))
    target = [a if (isinstance(a, int) and a > 0) or (a is not None and a in known) else None for a in asked]
    if target.count(None) > 1:
        return None
    pending = [f for axis in view.axes for f in axis]
    here = target.index(None) if None in target else len(target)
    front, back = list[Axis](), list[Axis]()
    for i in (*range(here), *range(len(target) - 1, here, -1)):
        if (taken := _take(view, pending, target[i], fastest=i > here)) is None:
            return None
        view, pending, axis = taken
        front, back = ([*front, axis], back) if i < here else (front, [axis, *back])
    rest = [tuple(pending)] if None in target else []
    return replace(view, axes=(*front, *rest, *back)) if rest or not pending else None


def _take(
    view: View, pending: list[Factor], wanted: Extent, *, fastest: bool
) -> tuple[View, list[Factor], Axis] | None:
    """Take the factors of one size from the slow or the fast end."""
    axis: Axis = ()
    while wanted != 1:
        if not pending:
            return None
        factor = pending[-1 if fastest else 0]
        have = factor.size
        if isinstance(have, int) and isinstance(wanted, int) and have % wanted == 0 and have != wanted:
            sizes = (have // wanted, wanted) if fastest else (wanted, have // wanted)
            view, slow, fast = view.split(factor, sizes)
            pending = [p for f in pending for p in ((slow, fast) if f is factor else (f,))]
            continue
        if have == wanted:
            wanted = 1
        elif isinstance(have, int) and isinstance(wanted, int) and wanted % have == 0:
            wanted //= have
        else:
            return None
        pending = pending[:-1] if fastest else pending[1:]
        axis = (factor, *axis) if fastest else (*axis, factor)
    return view, pending, axis


def _squeezed(view: View, node: ir.Node) -> View | None:
    named = contents(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get_ints("axes", None)
    if named is None or not all(isinstance(a, int) for a in named):
        return None
    numbers = [a for a in named if isinstance(a, int)]
    if node.op_type == "Squeeze":
        gone = {a % len(view.axes) for a in numbers}
        if any(view.axes[a] for a in gone):
            return None
        return replace(view, axes=tuple(axis for a, axis in enumerate(view.axes) if a not in gone))
    rank, left = len(view.axes) + len(numbers), iter(view.axes)
    added = {a % rank for a in numbers}
    return replace(view, axes=tuple(() if a in added else next(left) for a in range(rank)))


def _copied(view: View, wanted: Extents | None) -> View | None:
    """Copy along axes of size 1, and along new ones before the others; the rest keep their sizes."""
    if wanted is None or None in wanted or 0 in wanted or len(wanted) < len(view.axes):
        return None
    have = ((),) * (len(wanted) - len(view.axes)) + view.axes
    if any(axis and size(axis) != to for axis, to in zip(have, wanted, strict=True)):
        return None
    return replace(view, axes=tuple(axis or _axis(to) for axis, to in zip(have, wanted, strict=True)))


def _gathered(view: View, node: ir.Node, axis: int) -> View | None:
    """Select one index of an axis of a known number of elements; the axis is gone."""
    index, whole = constant(node.inputs[1]), view.axes[axis]
    if index is None or index.ndim != 0 or len(whole) != 1 or not isinstance(count := whole[0].size, int):
        return None
    axes = (*view.axes[:axis], *view.axes[axis + 1 :])
    return replace(view, axes=axes, fixed={**view.fixed, whole[0]: int(index) % count})


def _cut(node: ir.Node, output: ir.Value) -> tuple[int, int, int] | None:
    """Return the axis along which a Split or a Slice cuts, where its part begins, and where it ends."""
    given = [contents(v) for v in node.inputs[1:]]
    if node.op_type == "Slice":
        if len(given) < 3 or any(g is None or len(g) != 1 or not isinstance(g[0], int) for g in given):
            return None
        start, end, axis, step = (*(int(str(g[0])) for g in given if g is not None), 1)[:4]
        return (axis, start, end) if step == 1 and 0 <= start < end else None
    axis, index = node.attributes.get_int("axis", 0), node.outputs.index(output)
    parts = given[0] if given else tuple(node.attributes.get_ints("split", ()))
    if parts is None or not all(isinstance(p, int) for p in parts):
        return None
    sizes = [p for p in parts if isinstance(p, int)]
    return (axis, sum(sizes[:index]), sum(sizes[: index + 1])) if sizes else None


def _part(view: View, axis: int, start: int, end: int) -> View | None:
    """Return one of several equal parts of an axis that is not the last: a part of the last one is a tensor itself."""
    whole = view.axes[axis]
    if len(whole) != 1 or not isinstance(have := whole[0].size, int) or axis == len(view.axes) - 1:
        return None
    length = min(end, have) - start
    if length < 1 or have % length or start % length:
        return None
    fixed = whole[0]
    left: Axis = ()
    if length > 1:
        view, fixed, fast = view.split(whole[0], (have // length, length))
        left = (fast,)
    axes = (*view.axes[:axis], left, *view.axes[axis + 1 :])
    return replace(view, axes=axes, fixed={**view.fixed, fixed: start // length})
