"""Reads queries, keys and values of attention off the views that split them into heads.

Where several heads of queries share one of keys and values, it is repeated for them, by a factor that no source has:

    [b, t, g*d] -> [b, g, t, d] -> [b, g, 1, t, d] -> [b, g, n, t, d] -> [b, g*n, t, d]
    source: (b) (t) (g d);  axes: (b) (g n) (t) (d)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from dlc.interface import Extent
from dlc.passes.base import scalar
from dlc.passes.views import Axis, View, size, sources


@dataclass(frozen=True, slots=True)
class Heads:
    """[batch, length, heads * size] in ``value``, or its part ``part[0]`` of ``part[1]`` along the last axis.

    ``sequence_first``: the value is [length, batch, ...].  ``split``: it is [batch, heads, length, size].  ``scale``:
    what the heads are multiplied by.  ``repeats``: heads of queries that share one of these, which are next to another.
    """

    value: ir.Value
    batch: Extent
    length: Extent
    heads: int
    size: int
    scale: float = 1.0
    part: tuple[int, int] = (0, 1)
    sequence_first: bool = False
    split: bool = False
    repeats: int = 1


Three = tuple[Heads, Heads, Heads]
_Reader = Callable[[ir.Value, View], Heads | str | None]
"""Reads heads off a view of a value, the length before the size; None: the value or the view has another rank."""


def operands(values: Sequence[ir.Value | None]) -> Three | str:
    """Return queries, keys, [.., d, t], and values: before they were split, or as split if heads are shared."""
    if isinstance(merged := _three(values, _merged), str):
        split = _three(values, _split)
        return split if not isinstance(split, str) and split[1].repeats > 1 else merged
    return merged


def _three(values: Sequence[ir.Value | None], read: _Reader) -> Three | str:
    found = [_heads(v, read, swapped=i == 1) for i, v in enumerate(values)]
    for which, each in zip(("queries", "keys", "values"), found, strict=True):
        if isinstance(each, str):
            return f"{which}: {each}"
    q, k, v = (each for each in found if isinstance(each, Heads))
    return _unlike(q, k, v) or (q, k, v)


def _unlike(q: Heads, k: Heads, v: Heads) -> str | None:
    """Say what keeps them from one operator; keys may be more or fewer than queries, values larger or smaller."""
    shared = (k.heads, k.repeats) == (v.heads, v.repeats) and (q.heads, q.repeats) == (k.heads * k.repeats, 1)
    if not shared or q.size != k.size:
        return "queries, keys and values differ in their heads"
    if not q.batch == k.batch == v.batch or k.length != v.length:
        return "queries, keys and values differ in their batch or length"
    return "the values are scaled" if v.scale != 1.0 else None


def _heads(value: ir.Value | None, read: _Reader, *, swapped: bool) -> Heads | str:
    """[b, h, s, d] or [b*h, s, d], ``swapped``: the last two the other way; as a view of what ``read`` reads."""
    if value is None or value.dtype != ir.DataType.FLOAT:
        return f"dtype is {value.dtype.name if value is not None and value.dtype else 'unknown'}, not FLOAT"
    reason = "not split into heads, or sizes are unknown"
    for origin, view, scale in sources(value, scaled=unscaled):
        axes = (*view.axes[:-2], *view.axes[:-3:-1]) if swapped else view.axes
        found = read(origin, replace(view, axes=axes))
        if isinstance(found, Heads):
            return replace(found, scale=scale)
        reason = found or reason
    return reason


def _merged(origin: ir.Value, view: View) -> Heads | str | None:
    """Read heads off a view, where it is one of a tensor [batch, length, hidden] or [length, batch, hidden]."""
    if len(view.source) != 3 or len(view.axes) not in (3, 4):
        return None
    *lead, length, features = view.axes
    hidden, selected = view.source[2], tuple(f for axis in view.source for f in axis if f in view.fixed)
    if len(selected) > 1 or hidden[: len(selected)] != selected:
        return "the heads are not split off a tensor in one piece"
    split = len(hidden) - len(features)
    heads = hidden[len(selected) : split]
    flat = tuple(f for axis in lead for f in axis)
    copies = view.copies(flat)
    batch = flat[: len(flat) - len(heads) - len(copies)]
    straight = hidden[split:] == features and flat == (*batch, *heads, *copies) and (len(lead) == 1 or lead[0] == batch)
    if not straight or view.source[:2] not in ((batch, length), (length, batch)):
        return "the views do more than split the last axis"
    part = next(((view.fixed[f], f.size) for f in selected if isinstance(f.size, int)), (0, 1))
    found = _sized(origin, (batch, heads, length, features), copies)
    if isinstance(found, str):
        return found
    return replace(found, part=part, sequence_first=view.source[:2] != (batch, length))


def _split(origin: ir.Value, view: View) -> Heads | str | None:
    """Read heads off a view that repeats those of a tensor [batch, heads, length, size], or leaves it as it is."""
    if len(view.source) != 4 or len(view.axes) != 4:
        return None
    batch, heads, length, features = view.axes
    copies = view.copies(heads)
    if view.source != (batch, heads[: len(heads) - len(copies)], length, features):
        return "the views do more than repeat heads"
    found = _sized(origin, view.source, copies)
    return found if isinstance(found, str) else replace(found, split=True)


def _sized(origin: ir.Value, axes: tuple[Axis, ...], copies: Axis) -> Heads | str:
    batch, heads, length, features = map(size, axes)
    repeats = size(copies)
    if not isinstance(heads, int) or not isinstance(features, int) or not isinstance(repeats, int):
        return "number or size of the heads is dynamic"
    if batch is None or length is None:
        return "sizes are unknown"
    return Heads(origin, batch, length, heads, features, repeats=repeats)


def unscaled(value: ir.Value | None) -> tuple[float, ir.Value | None]:
    """Strip multiplications with, and divisions by, a scalar constant."""
    scale = 1.0
    while value is not None and (node := value.producer()) is not None and node.op_type in ("Mul", "Div"):
        right, left = scalar(node.inputs[1]), scalar(node.inputs[0])
        if right is not None and (node.op_type == "Mul" or right != 0.0):
            scale, value = scale * right if node.op_type == "Mul" else scale / right, node.inputs[0]
        elif left is not None and node.op_type == "Mul":
            scale, value = scale * left, node.inputs[1]
        else:
            break
    return scale, value
