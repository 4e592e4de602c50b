"""Finds attention in which several heads of queries share one head of keys and values, written out in operators.

softmax(scale * q repeat(k)' + mask) repeat(v)

repeat: [B, G, T, D] -> [B, G, 1, T, D] -> [B, G, N, T, D] -> [B, G*N, T, D]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant, only_user, scalar
from dlc.passes.extents import Extents, contents, extents, matches, reshaped
from dlc.passes.match_rotary import unsplit


@dataclass(frozen=True, slots=True)
class Match:
    """One attention; ``product`` gives [B, H, S, E], ``last`` the same merged: [B, S, H*E].

    ``flat``: queries, keys and values before they were split into heads, if all three were and the result is merged.
    ``zeroed``: rows of the mask may be all minus infinity, and a guard makes their probabilities 0.
    """

    q: ir.Value  # [B, H, S, D]
    k: ir.Value  # [B, G, T, D]
    v: ir.Value  # [B, G, T, E]
    flat: tuple[ir.Value, ...] | None
    heads: int
    kv_heads: int
    scale: float
    mask: ir.Value | None
    product: ir.Node
    last: ir.Node
    zeroed: bool


def find(softmax: ir.Node) -> Match | str:  # noqa: PLR0911 - one return a guard
    """Find the attention around a Softmax, or say why there is none."""
    if isinstance(after := _after(softmax), str):
        return after
    product, last, guarded = after
    scores, mask = _scores(softmax.inputs[0])
    if scores is None:
        return "the scores are no product of two matrices, plus a mask"
    node, scale = scores
    (q_scale, q), (k_scale, keys) = _unscaled(node.inputs[0]), _swapped_back(node.inputs[1])
    (k, repeats), (v, v_repeats) = _repeated(keys), _repeated(product.inputs[1])
    if repeats < 2 or repeats != v_repeats or q is None or k is None or v is None:
        return "heads of keys and values are not repeated"
    if q.dtype != ir.DataType.FLOAT:
        return f"dtype is {q.dtype.name if q.dtype else 'unknown'}, not FLOAT"
    if (scale := scale * q_scale * k_scale) <= 0:
        return "the scale is not positive, which no attention operator takes"
    if isinstance(sizes := _sizes(q, k, v, repeats), str):
        return sizes
    if reason := _unfit(mask, sizes.scores):
        return reason
    zeroed = guarded and not (mask is None or _finite(mask))
    flat = _flat(q, k, v) if matches(reshaped(last), sizes.merged) else None
    return Match(q, k, v, flat, sizes.heads, sizes.heads // repeats, scale, mask, product, last, zeroed)


@dataclass(frozen=True, slots=True)
class _Sizes:
    heads: int
    scores: Extents  # [B, H, S, T]
    merged: Extents  # [B, S, H*E]


def _sizes(q: ir.Value, k: ir.Value, v: ir.Value, repeats: int) -> _Sizes | str:
    """Sizes of an attention, if those of queries, keys and values go together."""
    queries, keys, values = (extents(x) for x in (q, k, v))
    if queries is None or keys is None or values is None or len(queries) != 4 or None in (*queries, *keys, *values):
        return "sizes are unknown"
    (b, heads, s, d), (_, kv_heads, t, _), width = queries, keys, values[3]
    if not isinstance(heads, int) or not isinstance(kv_heads, int) or not isinstance(width, int):
        return "number or size of the heads is dynamic"
    if heads != kv_heads * repeats or keys != (b, kv_heads, t, d) or values != (b, kv_heads, t, width):
        return "queries, keys and values differ in their heads"
    return _Sizes(heads, (b, heads, s, t), (b, s, heads * width))


def _unfit(mask: ir.Value | None, scores: Extents) -> str | None:
    """Say why the operator cannot read a mask, which is broadcast to the scores."""
    if mask is None:
        return None
    if mask.dtype != ir.DataType.FLOAT:
        return "the mask is not FLOAT"
    shape = extents(mask)
    if shape is None or not 2 <= len(shape) <= 4 or shape[-2:] != scores[2:]:
        return "the mask does not have a row for each query and a column for each key"
    lead = zip(shape[-3::-1], scores[1::-1], strict=False)
    return None if all(size in (1, wide) for size, wide in lead) else "the mask is not broadcast to the scores"


def _flat(*split: ir.Value) -> tuple[ir.Value, ...] | None:
    """Return each value before it was split into heads, if all were."""
    found = [unsplit(x) for x in split]
    return None if None in found else tuple(each[0] for each in found if each is not None)


def _swapped_back(value: ir.Value | None) -> tuple[float, ir.Value | None]:
    """Return [.., T, D] of [.., D, T], and the factor by which it was scaled before or after it was swapped."""
    outer, base = _unscaled(value)
    transpose = _made_by(base, "Transpose")
    direct = transpose is not None and _perm(transpose) == (0, 1, 3, 2)
    inner, x = _unscaled(transpose.inputs[0] if transpose is not None and direct else _swapped(base))
    return outer * inner, x


def _repeated(value: ir.Value | None) -> tuple[ir.Value | None, int]:
    """Return x and N of [B, G, T, D] -> [B, G, 1, T, D] -> [B, G, N, T, D] -> [B, G*N, T, D]; N is 0 for all else."""
    reshape = _made_by(value, "Reshape")
    wide = (_made_by(reshape.inputs[0], "Expand") or _made_by(reshape.inputs[0], "Tile")) if reshape else None
    unsqueeze = _made_by(wide.inputs[0], "Unsqueeze") if wide is not None else None
    x = unsqueeze.inputs[0] if unsqueeze is not None and len(unsqueeze.inputs) > 1 else None
    shape = extents(x)
    if wide is None or unsqueeze is None or shape is None or len(shape) != 4 or None in shape:
        return None, 0
    b, g, t, d = shape
    given, result = extents(wide.outputs[0]), extents(value)
    if contents(unsqueeze.inputs[1]) not in ((2,), (-3,)) or given is None or len(given) != 5:
        return None, 0
    n = given[2]
    if not isinstance(n, int) or not isinstance(g, int) or given != (b, g, n, t, d) or result != (b, g * n, t, d):
        return None, 0
    return x, n


SPLIT = (0, 2, 1, 3)


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
