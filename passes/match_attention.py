"""Finds scaled dot-product attention, written out in operators, as today's and yesterday's exporters write it.

    merge(softmax(scale * split(q) split(k)' + mask) split(v))

The scale may stand at the queries, the keys, the product, or be shared between them, as a factor or a divisor. Keys are
split in one transpose, or split and then swapped on four axes or by way of three.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant, only_user, scalar
from dlc.passes.extents import extents, matches, reshaped

SPLIT = (0, 2, 1, 3)
"""[B, S, H, D] -> [B, H, S, D], and back."""


@dataclass(frozen=True, slots=True)
class Heads:
    """[B, S, H*D], split into heads and multiplied by ``scale``."""

    value: ir.Value
    heads: int
    size: int
    scale: float


@dataclass(frozen=True, slots=True)
class Match:
    """One attention; ``last`` is the Reshape that merges the heads, whose output the operator gives.

    ``zeroed``: rows of the mask may be all minus infinity, and a guard makes their probabilities 0.
    """

    q: Heads
    k: Heads
    v: Heads
    scale: float
    mask: ir.Value | None
    last: ir.Node
    zeroed: bool


def find(softmax: ir.Node) -> Match | str:  # noqa: PLR0911 - one return a guard
    """Find the attention around a Softmax, or say why there is none."""
    after = _after(softmax)
    if isinstance(after, str):
        return after
    product, last, guarded = after
    scores, mask = _scores(softmax.inputs[0])
    if scores is None:
        return "the scores are no product of two matrices, plus a mask"
    node, scale = scores
    q, k, v = _split(node.inputs[0]), _keys(node.inputs[1]), _split(product.inputs[1])
    for which, found in (("queries", q), ("keys", k), ("values", v)):
        if isinstance(found, str):
            return f"{which}: {found}"
    assert isinstance(q, Heads)
    assert isinstance(k, Heads)
    assert isinstance(v, Heads)
    if not q.heads == k.heads == v.heads or q.size != k.size:
        return "queries, keys and values differ in their heads"
    if v.scale != 1.0:
        return "the values are scaled"
    if scale * q.scale * k.scale <= 0:
        return "the scale is not positive, which no attention operator takes"
    if reason := _unfit(mask, q, k):
        return reason
    batch, length, _ = extents(q.value) or (None,) * 3
    if not matches(reshaped(last), (batch, length, q.heads * v.size)):
        return "the heads are not merged to [batch, sequence, hidden]"
    zeroed = guarded and not (mask is None or _finite(mask))
    return Match(q, k, v, scale * q.scale * k.scale, mask, last, zeroed)


def _after(softmax: ir.Node) -> tuple[ir.Node, ir.Node, bool] | str:  # noqa: PLR0911 - one return a guard
    """Return the product with the values, the Reshape that merges the heads, and whether there is a guard."""
    if softmax.attributes.get_int("axis", -1) not in (-1, 3):
        return "softmax is not over the last of four axes"
    p, guarded = softmax.outputs[0], False
    if p.is_graph_output():
        return "the probabilities are a graph output"
    users = [u.node for u in p.uses()]
    if [n.op_type for n in sorted(users, key=lambda n: n.op_type)] == ["IsNaN", "Where"]:
        where = users[0] if users[0].op_type == "Where" else users[1]
        isnan = next(n for n in users if n is not where)
        if where.inputs[0] is not isnan.outputs[0] or where.inputs[2] is not p or scalar(where.inputs[1]) != 0.0:
            return "the probabilities have another reader"
        if only_user(isnan.outputs[0]) is not where:
            return "the guard has another reader"
        p, guarded = where.outputs[0], True
    product = only_user(p)
    if product is None:
        return "the probabilities have another reader"
    if product.op_type != "MatMul" or product.inputs[0] is not p:
        return "the probabilities are not multiplied with values"
    merge = only_user(product.outputs[0])
    if merge is None or merge.op_type != "Transpose" or _perm(merge) != SPLIT:
        return "the heads are not merged after the product"
    last = only_user(merge.outputs[0])
    return (product, last, guarded) if last is not None and last.op_type == "Reshape" else "the heads are not merged"


def _scores(value: ir.Value | None) -> tuple[tuple[ir.Node, float] | None, ir.Value | None]:
    """Take ``scale * q k' + mask`` apart; neither the sum nor the product may be read elsewhere."""
    node = _made_by(value, "Add")
    for scores, mask in ((0, 1), (1, 0)) if node is not None else ():
        assert node is not None
        if (found := _product(node.inputs[scores])) is not None and _single(value):
            return found, node.inputs[mask]
    return _product(value), None


def _product(value: ir.Value | None) -> tuple[ir.Node, float] | None:
    scale, base = _unscaled(value)
    node = _made_by(base, "MatMul")
    return (node, scale) if node is not None and _single(base) and _single(value) else None


def _split(value: ir.Value | None) -> Heads | str:
    """[B, H, S, D]: a Transpose of a Reshape of [B, S, H*D], scaled or not."""
    scale, base = _unscaled(value)
    transpose = _made_by(base, "Transpose")
    return _reshaped_heads(transpose, SPLIT, scale)


def _keys(value: ir.Value | None) -> Heads | str:
    """[B, H, D, S]: split in one Transpose, or split and then transposed."""
    scale, base = _unscaled(value)
    transpose = _made_by(base, "Transpose")
    if transpose is not None and _perm(transpose) == (0, 2, 3, 1):
        return _reshaped_heads(transpose, (0, 2, 3, 1), scale)
    inner = transpose.inputs[0] if transpose is not None and _perm(transpose) == (0, 1, 3, 2) else _swapped(base)
    found = _split(inner)
    return found if isinstance(found, str) else Heads(found.value, found.heads, found.size, found.scale * scale)


def _reshaped_heads(transpose: ir.Node | None, perm: tuple[int, ...], scale: float) -> Heads | str:  # noqa: PLR0911
    if transpose is None or _perm(transpose) != perm:
        return "not split into heads by a transpose"
    reshape = _made_by(transpose.inputs[0], "Reshape")
    if reshape is None or (x := reshape.inputs[0]) is None:
        return "not split into heads by a reshape"
    if x.dtype != ir.DataType.FLOAT:
        return f"dtype is {x.dtype.name if x.dtype else 'unknown'}, not FLOAT"
    shape, asked = extents(x), reshaped(reshape)
    if shape is None or asked is None or len(shape) != 3 or len(asked) != 4 or not isinstance(shape[2], int):
        return "sizes are unknown"
    heads, size = asked[2:]
    if not isinstance(heads, int) or not isinstance(size, int):
        return "number or size of the heads is dynamic"
    heads = shape[2] // size if heads == -1 else heads
    size = shape[2] // heads if size == -1 else size
    if heads * size != shape[2] or not matches(asked, (*shape[:2], heads, size)):
        return "the reshape does more than split the last axis"
    return Heads(x, heads, size, scale)


def _swapped(value: ir.Value | None) -> ir.Value | None:
    """Return x of a swap of its last two axes: [B, H, S, D] -> [B*H, S, D] -> [B*H, D, S] -> [B, H, D, S]."""
    back = _made_by(value, "Reshape")
    transpose = _made_by(back.inputs[0], "Transpose") if back is not None else None
    flat = _made_by(transpose.inputs[0], "Reshape") if transpose is not None and _perm(transpose) == (0, 2, 1) else None
    shape = extents(flat.inputs[0]) if flat is not None else None
    if back is None or flat is None or shape is None or len(shape) != 4:
        return None
    b, h, s, d = shape
    asked = reshaped(flat)
    if asked is None or len(asked) != 3 or asked[0] != -1 or not matches(asked[1:], (s, d)):
        return None
    return flat.inputs[0] if matches(reshaped(back), (b, h, d, s)) else None


def _unfit(mask: ir.Value | None, q: Heads, k: Heads) -> str | None:
    """Say why the operator cannot read a mask; one row for all queries is expanded when rewriting."""
    if mask is None:
        return None
    shape, queries, keys = extents(mask), extents(q.value), extents(k.value)
    assert queries is not None
    assert keys is not None
    if mask.dtype != ir.DataType.FLOAT:
        return "the mask is not FLOAT"
    if shape is None or len(shape) != 4:
        return "the mask has not four axes"
    fits = (
        shape[0] in (1, queries[0]), shape[1] in (1, q.heads), shape[2] in (1, queries[1]), shape[3] == keys[1]
    )  # fmt: skip
    return None if all(fits) and None not in shape else "the mask does not have one column per key"


def _finite(value: ir.Value | None) -> bool:
    """Whether a mask is finite whatever the inputs are."""
    if value is None:
        return False
    if (array := constant(value)) is not None:
        return bool(np.isfinite(array).all())
    node = value.producer()
    if node is None or node.domain != "":
        return False
    if node.op_type == "Where":
        return _finite(node.inputs[1]) and _finite(node.inputs[2])
    return node.op_type in ("Expand", "Unsqueeze", "Reshape", "Identity") and _finite(node.inputs[0])


def _unscaled(value: ir.Value | None) -> tuple[float, ir.Value | None]:
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


def _made_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and node.domain == "" else None


def _single(value: ir.Value | None) -> bool:
    return value is not None and only_user(value) is not None


def _perm(node: ir.Node) -> tuple[int, ...]:
    return tuple(node.attributes.get_ints("perm", ()))
