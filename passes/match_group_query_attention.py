"""Finds attention in which several heads of queries share one head of keys and values, written out in operators.

softmax(scale * q repeat(k)' + mask) repeat(v)

repeat: [B, G, T, D] -> [B, G, 1, T, D] -> [B, G, N, T, D] -> [B, G*N, T, D]
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from dlc.passes.extents import Extents, contents, extents, matches, reshaped
from dlc.passes.match_attention import _after, _finite, _made_by, _perm, _scores, _swapped, _unscaled
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
