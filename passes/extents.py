"""Sizes of dimensions as a graph knows them: numbers, and names of dynamic dimensions.

Exporters compute the target of a Reshape from the shapes of other values (Shape, Slice, Gather, Concat). ``contents``
evaluates such a computation, so that a rewrite can compare sizes instead of node patterns.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from dlc.interface import Extent
from dlc.passes.base import constant

Extents = tuple[Extent, ...]


def extents(value: ir.Value | None) -> Extents | None:
    """Shape of a value, None if its rank is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)


def contents(value: ir.Value | None) -> Extents | None:  # noqa: PLR0911 - one return an operator
    """Elements of an integer vector or scalar that holds sizes, None if it is computed in an unknown way."""
    if value is None:
        return None
    if (array := constant(value)) is not None:
        return tuple(int(i) for i in array.reshape(-1)) if array.dtype.kind in "iu" and array.ndim < 2 else None
    node = value.producer()
    if node is None or node.domain != "":
        return None
    if node.op_type == "Shape":
        shape = extents(node.inputs[0])
        end = node.attributes.get_int("end", len(shape or ()))
        return None if shape is None else shape[node.attributes.get_int("start", 0) : end]
    if node.op_type == "Concat":
        parts = [contents(v) for v in node.inputs]
        return None if None in parts else tuple(e for part in parts if part is not None for e in part)
    if node.op_type in ("Cast", "Identity", "Squeeze", "Unsqueeze"):
        return contents(node.inputs[0])
    if node.op_type in ("Gather", "Slice"):
        return _picked(node)
    return None


def reshaped(node: ir.Node) -> Extents | None:
    """Return what a Reshape asks for, with 0 replaced by the size it copies; -1 stays."""
    asked, x = contents(node.inputs[1]), extents(node.inputs[0])
    if asked is None or x is None or node.attributes.get_int("allowzero", 0) == 1:
        return asked
    return tuple(x[i] if size == 0 and i < len(x) else size for i, size in enumerate(asked))


def matches(asked: Sequence[Extent] | None, wanted: Sequence[Extent]) -> bool:
    """Whether a Reshape target is the wanted shape; one size may be left to be inferred (-1), none may be unknown."""
    if asked is None or len(asked) != len(wanted) or None in wanted or list(asked).count(-1) > 1:
        return False
    return all(a in (-1, w) for a, w in zip(asked, wanted, strict=True))


def _picked(node: ir.Node) -> Extents | None:
    data = contents(node.inputs[0])
    indices = [contents(v) for v in node.inputs[1:]]
    if data is None or any(i is None for i in indices):
        return None
    numbers = [[e for e in i if isinstance(e, int)] for i in indices if i is not None]
    if node.op_type == "Gather":
        return tuple(data[i] for i in numbers[0]) if all(-len(data) <= i < len(data) for i in numbers[0]) else None
    start, end, axis, step = (*numbers, [0], [1])[:4] if len(numbers) == 2 else (*numbers, [1])[:4]
    if [len(n) for n in (start, end, axis, step)] != [1, 1, 1, 1] or axis[0] not in (0, -1):
        return None
    return data[start[0] : end[0] : step[0]]
