"""The sizes of inner tensors, in terms of the graph's inputs: numbers, and names of dynamic dimensions.

Exporters leave out shapes, and shape inference gives a dimension that is computed a new name at each operator. A
rewrite compares sizes, so it needs one name for one size. Only what holds for every input is written down:

    broadcast of s and 1 is s;  of s and a number > 1, that number;  of s and min(s, k), s: other sizes cannot run
    Reshape to [.., -1, ..]: what is left of the input's sizes when those of the target are divided out
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import onnx_ir as ir

from dlc.interface import Extent
from dlc.passes.base import graphs
from dlc.passes.extents import Extents, contents, extents, reshaped

SAME = frozenset({
    "Abs", "Cast", "Ceil", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "IsInf", "IsNaN", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "Neg", "Not", "RMSNormalization",
    "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Softmax", "Softplus", "Sqrt", "Swish", "Tanh", "Trilu",
})  # fmt: skip
"""Operators whose first output has the shape of their first input."""
BROADCAST = frozenset({
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Or",
    "Pow", "Sub", "Sum", "Where", "Xor",
})  # fmt: skip


def name_sizes(model: ir.Model) -> None:
    """Write the sizes that can be told where the graph states none, or a name that none of its inputs bears."""
    declared: set[Extent] = {d for v in model.graph.inputs for d in extents(v) or () if isinstance(d, str)}
    for graph in graphs(model.graph):
        for node in graph:
            if node.domain == "" and node.outputs and not node.outputs[0].is_graph_output():
                _name(node, declared)


def _name(node: ir.Node, declared: Collection[Extent]) -> None:
    stated = extents(y := node.outputs[0])
    if stated is not None and all(isinstance(s, int) or s in declared for s in stated):
        return
    if (found := _inferred(node)) is None:
        return
    if stated is None:
        y.shape = ir.Shape(found)
    elif len(stated) == len(found):
        told = [s if isinstance(s, int) or s in declared else f for s, f in zip(stated, found, strict=True)]
        y.shape = ir.Shape([s if t is None else t for s, t in zip(stated, told, strict=True)])


def _inferred(node: ir.Node) -> Extents | None:
    if node.op_type in SAME:
        return extents(node.inputs[0])
    if node.op_type in BROADCAST:
        return broadcast([extents(v) for v in node.inputs])
    rule = RULES.get(node.op_type)
    return None if rule is None else rule(node)


def broadcast(shapes: Sequence[Extents | None]) -> Extents | None:
    """Shape that several shapes are broadcast to; a size that depends on the inputs' values is None."""
    known = [s for s in shapes if s is not None]
    if len(known) < len(shapes) or not known:
        return None
    rank = max(map(len, known))
    padded = [(1,) * (rank - len(s)) + s for s in known]
    return tuple(_common(column) for column in zip(*padded, strict=True))


def _common(sizes: Sequence[Extent]) -> Extent:
    wide = [s for s in dict.fromkeys(sizes) if s != 1]
    if len(wide) < 2:
        return wide[0] if wide else 1
    numbers = [s for s in wide if isinstance(s, int)]
    if numbers:
        return numbers[0] if len(numbers) == 1 else None
    least = [s for s in wide if not any(s == _least(other, s) for other in wide)]
    return least[0] if len(least) == 1 and None not in wide else None


def _least(size: Extent, of: Extent) -> Extent:
    """``min(size, k)`` if that is what ``of`` is: it can only be broadcast with ``size`` where they are equal."""
    matches = isinstance(size, str) and isinstance(of, str) and of.startswith("Min(") and of.endswith(f", {size})")
    return of if matches else None


def _reshape(node: ir.Node) -> Extents | None:
    asked, x = reshaped(node), extents(node.inputs[0])
    if asked is None or None in asked or list(asked).count(-1) != 1:
        return asked if asked is not None and -1 not in asked else None
    left = None if x is None else _quotient(x, [a for a in asked if a != -1])
    return tuple(left if a == -1 else a for a in asked)


def _quotient(product: Sequence[Extent], divisors: Sequence[Extent]) -> Extent:
    """Divide a product of sizes by others; None unless one number or one name is left. Zero sizes tell nothing."""
    names = [d for d in product if isinstance(d, str)]
    if None in product:
        return None
    for name in (d for d in divisors if isinstance(d, str)):
        if name not in names:
            return None
        names.remove(name)
    above = math.prod(d for d in product if isinstance(d, int))
    below = math.prod(d for d in divisors if isinstance(d, int))
    if below == 0 or above == 0 or above % below:
        return None
    number = above // below
    if not names:
        return number
    return names[0] if len(names) == 1 and number == 1 else None


def _transpose(node: ir.Node) -> Extents | None:
    x = extents(node.inputs[0])
    perm = node.attributes.get_ints("perm", ())
    if x is None:
        return None
    return tuple(x[i] for i in perm) if perm else x[::-1]


def _matmul(node: ir.Node) -> Extents | None:
    a, b = (extents(v) for v in node.inputs)
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return None
    lead = broadcast([a[:-2], b[:-2]])
    return None if lead is None else (*lead, a[-2], b[-1])


def _concat(node: ir.Node) -> Extents | None:
    """Add up along the axis; elsewhere all inputs are alike, and a number tells more than a name."""
    given = [s for v in node.inputs if (s := extents(v)) is not None]
    if len(given) < len(node.inputs) or len({len(s) for s in given}) != 1:
        return None
    axis = node.attributes.get_int("axis", 0) % len(given[0])
    along = [s[axis] for s in given]
    numbers = [n for n in along if isinstance(n, int)]
    total = sum(numbers) if len(numbers) == len(along) else None
    others = [next((n for n in column if isinstance(n, int)), column[0]) for column in zip(*given, strict=True)]
    return tuple(total if i == axis else size for i, size in enumerate(others))


def _gather(node: ir.Node) -> Extents | None:
    data, at = extents(node.inputs[0]), extents(node.inputs[1])
    if data is None or at is None:
        return None
    axis = node.attributes.get_int("axis", 0) % max(len(data), 1)
    return (*data[:axis], *at, *data[axis + 1 :])


def _unsqueeze(node: ir.Node) -> Extents | None:
    x, axes = extents(node.inputs[0]), contents(node.inputs[1]) if len(node.inputs) > 1 else None
    if x is None or axes is None or not all(isinstance(a, int) for a in axes):
        return None
    rank, sizes = len(x) + len(axes), iter(x)
    added = {int(a) % rank for a in axes if isinstance(a, int)}
    return tuple(1 if i in added else next(sizes) for i in range(rank))


def _slice(node: ir.Node) -> Extents | None:
    """Cut from the first element on; ``min(size, end)`` where the end is a name, all else is left open."""
    x, given = extents(node.inputs[0]), [contents(v) for v in node.inputs[1:]]
    if x is None or len(given) < 3 or any(g is None for g in given):
        return None
    starts, ends, axes = (g or () for g in given[:3])
    steps = given[3] if len(given) > 3 and given[3] is not None else (1,) * len(axes)
    sizes = list(x)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not isinstance(axis, int):
            return None
        sizes[axis] = _cut(x[axis], start, end) if step == 1 else None
    return tuple(sizes)


def _cut(size: Extent, start: Extent, end: Extent) -> Extent:
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        return len(range(size)[start:end])
    if start != 0:
        return None
    if end == size or (isinstance(end, int) and end >= 2**31 - 1):
        return size
    return f"Min({size}, {end})" if isinstance(size, int) and size > 1 and isinstance(end, str) else None


def _tile(node: ir.Node) -> Extents | None:
    """Multiply by numbers; a name stays a name where it is taken once, or of 1."""
    x, times = extents(node.inputs[0]), contents(node.inputs[1])
    if x is None or times is None or len(x) != len(times):
        return None
    both = zip(x, times, strict=True)
    return tuple(a * b if isinstance(a, int) and isinstance(b, int) else _one_of(a, b) for a, b in both)


def _one_of(a: Extent, b: Extent) -> Extent:
    return a if b == 1 else b if a == 1 else None


def _range(node: ir.Node) -> Extents | None:
    start, limit, step = (contents(v) for v in node.inputs)
    return limit if start == (0,) and step == (1,) and limit is not None and len(limit) == 1 else None


RULES: dict[str, Callable[[ir.Node], Extents | None]] = {
    "ConstantOfShape": lambda node: contents(node.inputs[0]),
    "Expand": lambda node: broadcast([extents(node.inputs[0]), contents(node.inputs[1])]),
    "Gather": _gather,
    "GatherElements": lambda node: extents(node.inputs[1]),
    "Concat": _concat,
    "MatMul": _matmul,
    "Range": _range,
    "Reshape": _reshape,
    "Slice": _slice,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
