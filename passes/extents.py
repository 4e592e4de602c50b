"""Sizes of dimensions as a graph knows them: numbers, and names of dynamic dimensions.

Exporters compute the target of a Reshape from the shapes of other values (Shape, Slice, Gather, Concat). ``contents``
evaluates such a computation, so that a rewrite can compare sizes instead of node patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from dlc.interface import Extent
from dlc.passes.base import constant

Extents = tuple[Extent, ...]


def extents(value: ir.Value | None) -> Extents | None:
    """Shape of a value, None if its rank is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)


def contents(value: ir.Value | None) -> Extents | None:
    """Elements of an integer vector or scalar that holds sizes, None if it is computed in an unknown way."""
    if value is None:
        return None
    if (array := constant(value)) is not None:
        return tuple(int(i) for i in array.reshape(-1)) if array.dtype.kind in "iu" and array.ndim < 2 else None
    node = value.producer()
    if node is None or node.domain != "":
        return None
    if node.op_type in ("Identity", "Squeeze", "Unsqueeze"):
        return contents(node.inputs[0])
    rule = ELEMENTS.get(node.op_type)
    return None if rule is None else rule(node)


def reshaped(node: ir.Node) -> Extents | None:
    """Return what a Reshape asks for, with 0 replaced by the size it copies, None if that is unknown; -1 stays."""
    asked, x = contents(node.inputs[1]), extents(node.inputs[0]) or ()
    if asked is None or node.attributes.get_int("allowzero", 0) == 1:
        return asked
    return tuple(size if size != 0 else x[i] if i < len(x) else None for i, size in enumerate(asked))


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


def _sizes(node: ir.Node) -> Extents | None:
    shape = extents(node.inputs[0])
    end = node.attributes.get_int("end", len(shape or ()))
    return None if shape is None else shape[node.attributes.get_int("start", 0) : end]


def _joined(node: ir.Node) -> Extents | None:
    parts = [contents(v) for v in node.inputs]
    return None if None in parts else tuple(e for part in parts if part is not None for e in part)


def _flattened(node: ir.Node) -> Extents | None:
    """Return what a Reshape to a vector or a scalar leaves as it is."""
    return contents(node.inputs[0]) if contents(node.inputs[1]) in ((-1,), ()) else None


def _cast(node: ir.Node) -> Extents | None:
    """Return what is cast to INT64, or fits INT32; a name is a size, which does."""
    sizes, wanted = contents(node.inputs[0]), node.attributes.get_int("to", 0)
    if wanted == ir.DataType.INT64:
        return sizes
    fits = sizes is not None and all(-(1 << 31) <= s < 1 << 31 for s in sizes if isinstance(s, int))
    return sizes if wanted == ir.DataType.INT32 and fits else None


def _filled(node: ir.Node) -> Extents | None:
    """Return the elements of a small ConstantOfShape."""
    shape, value = contents(node.inputs[0]), node.attributes.get_tensor("value", None)
    if shape is None or len(shape) != 1 or not isinstance(shape[0], int) or shape[0] > LONGEST:
        return None
    return (0 if value is None else int(value.numpy().reshape(-1)[0]),) * shape[0]


def _elementwise(node: ir.Node) -> Extents | None:
    """Elements of a product, a comparison or a choice of vectors of one length; a name is some size, so never -1."""
    given = [contents(v) for v in node.inputs]
    length = max((len(g) for g in given if g is not None), default=0)
    if any(g is None or len(g) not in (1, length) for g in given):
        return None
    columns = [g * (length // len(g)) for g in given if g is not None]
    return tuple(COMPUTED[node.op_type](*elements) for elements in zip(*columns, strict=True))


def _times(a: Extent, b: Extent) -> Extent:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    return a if b == 1 else b if a == 1 else None


def _equals(a: Extent, b: Extent) -> Extent:
    """1 if two sizes are equal, 0 if they cannot be."""
    if a is None or b is None:
        return None
    if a == b:
        return 1
    least = min((x for x in (a, b) if isinstance(x, int)), default=0)
    return 0 if (isinstance(a, int) and isinstance(b, int)) or least < 0 else None


def _choice(condition: Extent, yes: Extent, no: Extent) -> Extent:
    return None if condition is None else no if condition == 0 else yes


COMPUTED: dict[str, Callable[..., Extent]] = {"Mul": _times, "Equal": _equals, "Where": _choice}
ELEMENTS: dict[str, Callable[[ir.Node], Extents | None]] = {
    "Shape": _sizes, "Cast": _cast, "Concat": _joined, "Reshape": _flattened, "ConstantOfShape": _filled,
    "Mul": _elementwise, "Where": _elementwise, "Equal": _elementwise, "Gather": _picked, "Slice": _picked,
}  # fmt: skip
LONGEST = 64
"""Elements of the longest vector that is taken for a shape."""
