"""Finds rotary position embedding, written out in operators, as today's and yesterday's exporters write it.

y = x * cos + turn(x) * sin

halves (Llama):  turn([a, b]) = [-b, a]
pairs (GPT-J):   turn([a, b, c, d, ..]) = [-b, a, -d, c, ..]

x: [B, H, S, D], or [B, S, H, D];  cos, sin: one row of D numbers for each position, each number twice in it
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from dlc.interface import Extent
from dlc.passes.base import constant
from dlc.passes.extents import Extents, contents, extents

SPLIT = (0, 2, 1, 3)
"""[B, S, H, D] -> [B, H, S, D], and back."""


@dataclass(frozen=True, slots=True)
class Rotary:
    """``x * cos + turn(x) * sin``; ``pairs``: neighbours are turned, not halves.

    ``heads_first``: x is [B, H, S, D], else [B, S, H, D]. ``before``: what x was split from, and the Reshape that did
    it, if nothing else reads the heads.
    """

    x: ir.Value
    cos: ir.Value
    sin: ir.Value
    pairs: bool
    heads_first: bool
    heads: int
    size: int  # D
    before: tuple[ir.Value, ir.Node] | None


def turns(add: ir.Node) -> bool:
    """Whether a sum has a product with a turned value among its terms."""
    return add.op_type == "Add" and add.domain == "" and _terms(add) is not None


def find(add: ir.Node) -> Rotary | str:  # noqa: PLR0911 - one return a guard
    """Find the rotary embedding whose last node is a sum, or say why there is none."""
    terms = _terms(add)
    if terms is None:
        return "no turned value is added"
    x, pairs, sin, cos = terms
    if cos is None:
        return "what is turned is not what is multiplied with the cosines"
    if x.dtype != ir.DataType.FLOAT:
        return f"dtype is {x.dtype.name if x.dtype else 'unknown'}, not FLOAT"
    shape = extents(x)
    if shape is None or len(shape) != 4 or None in shape:
        return "sizes are unknown"
    layouts = {_heads_first(extents(table), shape) for table in (cos, sin)}
    heads_first = next(iter(layouts)) if len(layouts) == 1 else None
    if heads_first is None:
        return "the angles are not one row for each position"
    for table, what in ((cos, "cosines"), (sin, "sines")):
        if not twice(table, pairs=pairs):
            return f"the {what} may differ between the {'neighbours' if pairs else 'halves'} that are turned together"
    heads, size = shape[1 if heads_first else 2], shape[3]
    if not isinstance(heads, int) or not isinstance(size, int):
        return "the number of heads is dynamic"
    before = unsplit(x, heads_first=heads_first) if _readers(x) <= READERS else None
    if before is None and not heads_first:
        return "the heads come after the positions, which the operator does not read"
    return Rotary(x, cos, sin, pairs, heads_first, heads, size, before)


READERS = {"Mul", "Shape", "Slice", "Split"}
"""What may read x for the operator to stand before the split: the embedding itself, and what reads no number."""


def _readers(x: ir.Value) -> set[str]:
    return {u.node.op_type for u in x.uses()} | ({"graph output"} if x.is_graph_output() else set())


def unsplit(x: ir.Value, *, heads_first: bool = True) -> tuple[ir.Value, ir.Node] | None:
    """Return what was split into heads, [B, S, H*D], and the Reshape that did it; None if x was made otherwise.

    x: [B, H, S, D], or [B, S, H, D] if not ``heads_first``.
    """
    split = extents(x)
    value: ir.Value | None = x
    if split is None or len(split) != 4 or None in split:
        return None
    if heads_first:
        transpose = _made_by(x, "Transpose")
        if transpose is None or tuple(transpose.attributes.get_ints("perm", ())) != SPLIT:
            return None
        split, value = tuple(split[i] for i in SPLIT), transpose.inputs[0]
    b, s, h, d = split
    reshape = _made_by(value, "Reshape")
    if reshape is None or (flat := reshape.inputs[0]) is None or not isinstance(h, int) or not isinstance(d, int):
        return None
    return (flat, reshape) if extents(flat) == (b, s, h * d) else None


def twice(value: ir.Value | None, *, pairs: bool) -> bool:  # noqa: PLR0911 - one return a rule
    """Whether the last axis provably holds each number twice: in both halves, or in neighbours (``pairs``)."""
    shape = extents(value)
    if value is None or shape is None or not shape or not isinstance(shape[-1], int) or shape[-1] % 2:
        return False
    if (array := constant(value)) is not None:
        split = array.reshape(*array.shape[:-1], *((-1, 2) if pairs else (2, array.shape[-1] // 2)))
        first, second = (split[..., 0], split[..., 1]) if pairs else (split[..., 0, :], split[..., 1, :])
        return bool((first == second).all())
    node = value.producer()
    if node is None or node.domain != "":
        return False
    if node.op_type in ELEMENTWISE:
        return all(_same_along(v, pairs=pairs) for v in node.inputs)
    if node.op_type == "Concat":
        same = len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
        return same and not pairs and _is_last(node.attributes.get_int("axis", 0), len(shape))
    if node.op_type == "Reshape":
        return pairs and _interleaved(node, shape)
    if node.op_type in ROWWISE and _keeps_last(node, shape):
        return twice(node.inputs[0], pairs=pairs)
    return False


ELEMENTWISE = frozenset({"Cos", "Sin", "Cast", "Identity", "Neg", "Mul", "Div", "Add", "Sub"})
ROWWISE = frozenset({"Unsqueeze", "Squeeze", "Gather", "Slice", "Expand"})
"""Operators that leave the rows along the last axis whole, if they do not act on it."""


def _same_along(value: ir.Value | None, *, pairs: bool) -> bool:
    """Whether an operand gives both numbers of two the same: it has one number along the last axis, or each twice."""
    shape = extents(value)
    return shape is not None and (not shape or shape[-1] == 1 or twice(value, pairs=pairs))


def _keeps_last(node: ir.Node, shape: Extents) -> bool:
    """Whether the last axis of the input is the last of the output, untouched."""
    x = extents(node.inputs[0])
    if x is None or not x or x[-1] != shape[-1]:
        return False
    if node.op_type == "Gather":
        return len(x) > 1 and not _is_last(node.attributes.get_int("axis", 0), len(x))
    if node.op_type == "Expand":
        return True
    at = 3 if node.op_type == "Slice" else 1
    axes = contents(node.inputs[at]) if len(node.inputs) > at else None
    if axes is None or not all(isinstance(a, int) for a in axes):
        return False
    rank = max(len(x), len(shape))
    return not any(_is_last(a, rank) for a in axes if isinstance(a, int))


def _interleaved(reshape: ir.Node, shape: Extents) -> bool:
    """Whether [.., D/2, 1], expanded to [.., D/2, 2] or joined with itself, becomes [.., D]."""
    node = reshape.inputs[0].producer() if reshape.inputs[0] is not None else None
    if node is None or node.domain != "" or node.op_type not in ("Concat", "Expand", "Tile"):
        return False
    if node.op_type == "Concat" and (len(node.inputs) != 2 or node.inputs[0] is not node.inputs[1]):
        return False
    narrow, wide = extents(node.inputs[0]), extents(node.outputs[0])
    if narrow is None or wide is None or len(narrow) != len(wide) or len(wide) < 2:
        return False
    return (narrow[-1], wide[-1]) == (1, 2) and narrow[-2] == wide[-2] and _doubled(wide[-2], shape[-1])


def _doubled(half: Extent, whole: Extent) -> bool:
    return isinstance(half, int) and 2 * half == whole


def _terms(add: ir.Node) -> tuple[ir.Value, bool, ir.Value, ir.Value | None] | None:
    """Take ``x * cos + turn(x) * sin`` apart into x, whether pairs are turned, sin, and cos or None."""
    for i in (0, 1):
        product, plain = _made_by(add.inputs[i], "Mul"), _made_by(add.inputs[1 - i], "Mul")
        for j in (0, 1) if product is not None and plain is not None else ():
            assert product is not None
            assert plain is not None
            found, sin = _turned(product.inputs[j]), product.inputs[1 - j]
            if found is not None and sin is not None:
                x, pairs = found
                cos = next((plain.inputs[1 - k] for k in (0, 1) if plain.inputs[k] is x), None)
                return x, pairs, sin, cos
    return None


def _turned(value: ir.Value | None) -> tuple[ir.Value, bool] | None:
    """Return x if the value is turn(x), and whether pairs are turned."""
    joined, pairs = _made_by(value, "Concat"), False
    if joined is None and (reshape := _made_by(value, "Reshape")) is not None:
        joined, pairs = _made_by(reshape.inputs[0], "Concat"), True
    if joined is None or len(joined.inputs) != 2:
        return None
    ends = [_unstacked(v) for v in joined.inputs] if pairs else list(joined.inputs)
    negative = _made_by(ends[0], "Neg")
    second, first = _part(negative.inputs[0] if negative is not None else None), _part(ends[1])
    if first is None or second is None or first[0] is not second[0]:
        return None
    x = first[0]
    shape, y = extents(x), extents(value)
    assert shape is not None
    d, rank = shape[-1], len(shape) + pairs
    assert isinstance(d, int)
    wanted = (range(0, d, 2), range(1, d, 2)) if pairs else (range(d // 2), range(d // 2, d))
    if not d or d % 2 or (first[1], second[1]) != wanted or not _is_last(joined.attributes.get_int("axis", 0), rank):
        return None
    return (x, pairs) if not pairs or y == shape else None


def _unstacked(value: ir.Value | None) -> ir.Value | None:
    """Return x of [.., D] -> [.., D, 1]."""
    node = _made_by(value, "Unsqueeze")
    shape = extents(node.inputs[0]) if node is not None else None
    if node is None or shape is None or len(node.inputs) < 2:
        return None
    return node.inputs[0] if contents(node.inputs[1]) in ((-1,), (len(shape),)) else None


def _part(value: ir.Value | None) -> tuple[ir.Value, range] | None:
    """Return x and the indices along its last axis that a Slice, or a Split in two, takes from it."""
    node = value.producer() if value is not None else None
    if node is None or node.domain != "" or node.op_type not in ("Slice", "Split") or (x := node.inputs[0]) is None:
        return None
    shape = extents(x)
    if shape is None or not shape or not isinstance(d := shape[-1], int):
        return None
    if node.op_type == "Split":
        halves = [extents(v) for v in node.outputs]
        last = _is_last(node.attributes.get_int("axis", 0), len(shape))
        even = len(halves) == 2 and all(h is not None and h[-1] == d // 2 for h in halves)
        return (x, range(d)[: d // 2] if node.outputs[0] is value else range(d)[d // 2 :]) if last and even else None
    given = [contents(v) for v in node.inputs[1:]]
    numbers = [g[0] for g in given if g is not None and len(g) == 1 and isinstance(g[0], int)]
    if len(numbers) not in (3, 4) or len(numbers) != len(given):
        return None
    start, end, axis, step = (*numbers, 1)[:4]
    if not _is_last(axis, len(shape)) or step == 0:
        return None
    return x, range(d)[slice(start, end, step)]


def _heads_first(table: Extents | None, shape: Extents) -> bool | None:
    """Whether a table has a row for each position of [B, H, S, D], or of [B, S, H, D]; None if neither."""
    if table is None or len(table) > 4:
        return None
    b, one, two, d = (1,) * (4 - len(table)) + table
    if b not in (1, shape[0]) or d != shape[3]:
        return None
    return True if (one, two) == (1, shape[2]) else False if (one, two) == (shape[1], 1) else None


def _is_last(axis: Extent, rank: int) -> bool:
    return axis in (-1, rank - 1)


def _made_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and node.domain == "" else None
