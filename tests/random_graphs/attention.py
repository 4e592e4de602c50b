"""Scaled dot-product attention as exporters write it, with each kind of mask; x: [n, s, h]."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from tests.random_graphs.sketch import Dims, Sketch, Tensor
from tests.random_graphs.tokens import width

HEADS, SHARED = 2, 2
"""Heads of attention; heads of queries that share one of keys and values, in grouped attention."""


def attention(g: Sketch, x: Tensor) -> Tensor:
    """Project, split into heads, mask, softmax, merge, project."""
    h = width(x)
    size = h // HEADS
    q, k, v = (_projected(g, x, h) for _ in range(3))
    q = _split(g, q, HEADS, size, (0, 2, 1, 3))
    if g.chance(0.2):
        angles = _angles(g, x, size)
        q = _rotated(g, q, size, angles)
        k = g.op("Transpose", _rotated(g, _split(g, k, HEADS, size, (0, 2, 1, 3)), size, angles), perm=[0, 1, 3, 2])
    else:
        k = _keys(g, k, size)
    return _attended(g, x, (q, k, _split(g, v, HEADS, size, (0, 2, 1, 3))), HEADS)


def grouped(g: Sketch, x: Tensor) -> Tensor:
    """Attention in which several heads of queries share one of keys and values, with rotary embedding or without."""
    h = width(x)
    heads, perm = HEADS * SHARED, (0, 2, 1, 3)
    size = h // heads
    q = _split(g, _projected(g, x, h), heads, size, perm)
    k, v = (_split(g, _projected(g, x, h // SHARED), HEADS, size, perm) for _ in range(2))
    if g.chance(0.5):
        angles = _angles(g, x, size)
        q, k = (_rotated(g, each, size, angles) for each in (q, k))
    k, v = (_repeated(g, each, size) for each in (k, v))
    return _attended(g, x, (q, g.op("Transpose", k, perm=[0, 1, 3, 2]), v), heads)


def rotary(g: Sketch, x: Tensor) -> Tensor:
    """Split into heads, rotate each number with another by an angle of its position, merge."""
    h = width(x)
    heads = _split(g, x.value, HEADS, h // HEADS, (0, 2, 1, 3))
    turned = _rotated(g, heads, h // HEADS, _angles(g, x, h // HEADS))
    return Tensor(_merged(g, g.op("Transpose", turned, perm=[0, 2, 1, 3]), h, x), x.dims)


def _attended(g: Sketch, x: Tensor, heads: tuple[ir.Value, ir.Value, ir.Value], count: int) -> Tensor:
    """Combine queries, keys and values; the keys are [n, heads, size, s]."""
    h = width(x)
    scale = 1 / math.sqrt(h // count)
    q, k, v = heads
    both = g.chance(0.3)
    if both:
        q, k = (g.either("Mul", side, g.number(math.sqrt(scale))) for side in (q, k))
    scores = g.op("MatMul", q, k)
    if not both and g.chance(0.9):
        scores = g.either("Mul", scores, g.number(scale)) if g.chance(0.5) else g.op("Div", scores, g.number(1 / scale))
    mask, infinite = _mask(g, x, count) if g.chance(0.7) else (None, False)
    p = g.op("Softmax", scores if mask is None else g.either("Add", scores, mask), axis=g.pick(-1, -1, 3))
    if infinite or g.chance(0.4):
        p = g.op("Where", g.op("IsNaN", p), g.array(np.array(0, g.dtype.numpy())), p)
    merged = g.op("Transpose", g.op("MatMul", p, v), perm=[0, 2, 1, 3])
    return Tensor(g.op("MatMul", _merged(g, merged, h, x), g.weight(h, h)), x.dims)


def _projected(g: Sketch, x: Tensor, columns: int) -> ir.Value:
    y = g.op("MatMul", x.value, g.weight(width(x), columns))
    return g.either("Add", y, g.weight(columns)) if g.chance(0.7) else y


def _split(g: Sketch, value: ir.Value, heads: int, size: int, perm: tuple[int, ...]) -> ir.Value:
    target = (
        g.ints(*g.pick((0, 0, heads, size), (0, 0, heads, -1), (0, 0, -1, size)))
        if g.chance(0.6)
        else g.op("Concat", _dim(g, value, 0), _dim(g, value, 1), g.ints(heads), g.ints(size), axis=0)
    )
    return g.op("Transpose", g.op("Reshape", value, target), perm=list(perm))


def _keys(g: Sketch, value: ir.Value, size: int) -> ir.Value:
    """Split into [n, heads, size, s], in one Transpose or two, or by way of three axes."""
    if g.chance(0.4):
        return _split(g, value, HEADS, size, (0, 2, 3, 1))
    heads = _split(g, value, HEADS, size, (0, 2, 1, 3))
    if g.chance(0.5):
        return g.op("Transpose", heads, perm=[0, 1, 3, 2])
    n, s = _dim(g, heads, 0), _dim(g, heads, 2)
    flat = g.op("Reshape", heads, g.op("Concat", g.ints(-1), s, g.ints(size), axis=0))
    back = g.op("Concat", n, g.ints(HEADS), g.ints(size), s, axis=0)
    return g.op("Reshape", g.op("Transpose", flat, perm=[0, 2, 1]), back)


def _repeated(g: Sketch, value: ir.Value, size: int) -> ir.Value:
    """Give each head of keys or values to several of queries; in an unusual form all heads follow each other."""
    axis = 1 if g.unusual() else 2
    wide = [SHARED if i == axis else 1 for i in range(5)]
    each = g.op(g.pick("Expand", "Tile"), g.op("Unsqueeze", value, g.ints(axis)), g.ints(*wide))
    whole = g.op("Concat", _dim(g, value, 0), g.ints(HEADS * SHARED), _dim(g, value, 2), g.ints(size), axis=0)
    return g.op("Reshape", each, whole)


@dataclass(frozen=True, slots=True)
class _Angles:
    """Cosines and sines, [n or 1, 1, s, size]; ``pairs``: of neighbours, not of halves."""

    cos: ir.Value
    sin: ir.Value
    pairs: bool


def _angles(g: Sketch, x: Tensor, size: int) -> _Angles | None:
    """Return angles that are fed; None in FLOAT16, in which ONNX Runtime has no cosine."""
    if g.dtype == ir.DataType.FLOAT16:
        return None
    n, s = x.dims[:2]
    pairs, half = g.chance(0.4), size // 2
    angles = g.input((n, s, half)).value if g.chance(0.3) else g.op("Unsqueeze", g.input((s, half)).value, g.ints(0))
    if pairs:
        column = g.op("Unsqueeze", angles, g.ints(-1))
        twice = g.op("Reshape", g.op("Concat", column, column, axis=-1), g.ints(0, 0, size))
    else:
        other = g.op("Neg", angles) if g.unusual() else angles
        twice = g.op("Concat", angles, other, axis=-1)
    cos, sin = (g.op("Unsqueeze", g.op(f, twice), g.ints(1)) for f in ("Cos", "Sin"))
    return _Angles(cos, sin, pairs)


def _rotated(g: Sketch, heads: ir.Value, size: int, angles: _Angles | None) -> ir.Value:
    """Rotate the numbers of each head."""
    if angles is None:
        return heads
    turned = _turned_pairs(g, heads, size) if angles.pairs else _turned_halves(g, heads, size)
    return g.either("Add", g.either("Mul", heads, angles.cos), g.either("Mul", turned, angles.sin))


def _turned_halves(g: Sketch, heads: ir.Value, size: int) -> ir.Value:
    """[a, b] -> [-b, a]."""
    if g.chance(0.5):
        parts = {"num_outputs": 2} if g.opset >= 18 else {}
        first, second = g.several("Split", heads, outputs=2, axis=g.pick(-1, 3), **parts)
    else:
        ends = (0, size // 2), (size // 2, (1 << 63) - 1)
        first, second = (g.op("Slice", heads, g.ints(a), g.ints(b), g.ints(g.pick(-1, 3))) for a, b in ends)
    return g.op("Concat", g.op("Neg", second), first, axis=-1)


def _turned_pairs(g: Sketch, heads: ir.Value, size: int) -> ir.Value:
    """[a, b, c, d, ..] -> [-b, a, -d, c, ..]."""
    rest = g.ints((1 << 63) - 1), g.ints(-1), g.ints(2)
    even, odd = (g.op("Slice", heads, g.ints(start), *rest) for start in (0, 1))
    columns = [g.op("Unsqueeze", v, g.ints(-1)) for v in (g.op("Neg", odd), even)]
    return g.op("Reshape", g.op("Concat", *columns, axis=-1), g.ints(0, 0, 0, size))


def _merged(g: Sketch, value: ir.Value, h: int, x: Tensor) -> ir.Value:
    if g.chance(0.6):
        return g.op("Reshape", value, g.ints(*g.pick((0, 0, h), (0, 0, -1))))
    return g.op("Reshape", value, g.op("Concat", _dim(g, x.value, 0), _dim(g, x.value, 1), g.ints(h), axis=0))


def _dim(g: Sketch, value: ir.Value, axis: int) -> ir.Value:
    """One size, as a vector: sliced or gathered, or picked by Shape itself since opset 15."""
    kind = g.pick("slice", "gather", "gather scalar", "shape")
    if kind == "shape" and g.opset >= 15:
        return g.op("Shape", value, start=axis, end=axis + 1)
    shape = g.op("Shape", value)
    if kind == "slice":
        return g.op("Slice", shape, g.ints(axis), g.ints(axis + 1), g.ints(0))
    if kind == "gather":
        return g.op("Gather", shape, g.ints(axis), axis=0)
    return g.op("Unsqueeze", g.op("Gather", shape, g.array(np.array(axis, np.int64)), axis=0), g.ints(0))


def _mask(g: Sketch, x: Tensor, heads: int) -> tuple[ir.Value, bool]:
    """Return what is added to the scores, and whether a row of it may be all minus infinity.

    Then a guard follows the Softmax: without one such a row is NaN, which ``fuse-attention`` does not promise to keep.
    """
    n, s = x.dims[:2]
    kind = g.pick("choice", "padding", "bias", "causal")
    kinds: tuple[Dims, ...] = (n, 1, 1, s), (n, 1, s, s), (1, 1, s, s), (s, s), (n, heads, s, s)
    dims = kinds[int(g.rng.integers(len(kinds)))]
    if kind == "bias":
        return g.input(dims).value, False
    low = float(g.pick(-np.inf, -1e4, float(np.finfo(g.dtype.numpy()).min)))
    if kind == "causal":
        return _causal(g, x, low), False
    choices = [g.array(np.array(c, g.dtype.numpy())) for c in (0.0, low)]
    if kind == "choice":
        seen = g.input(dims, ir.DataType.BOOL)
        return g.op("Where", seen.value, *choices), low == -np.inf
    wide = g.op("Unsqueeze", g.input((n, s), ir.DataType.INT64).value, g.ints(1, 2))
    number = g.op("Cast", wide, to=int(g.dtype))
    if g.chance(0.5) or low == -np.inf:
        return g.op("Where", g.op("Cast", wide, to=int(ir.DataType.BOOL)), *choices), low == -np.inf
    one = g.array(np.array(1, g.dtype.numpy()))
    return g.op("Mul", g.op("Sub", one, number), g.array(np.array(low, g.dtype.numpy()))), False


def _causal(g: Sketch, x: Tensor, low: float) -> ir.Value:
    """Minus a lot above the diagonal: every query sees itself."""
    s = _dim(g, x.value, 1)
    kind = g.dtype.numpy()
    full = g.op("ConstantOfShape", g.op("Concat", s, s, axis=0), value=ir.tensor(np.array([low], kind)))
    return g.op("Trilu", full, g.array(np.array(1, np.int64)), upper=1) if g.opset >= 14 else g.input((1, 1)).value


ATTENTION = (attention, attention, grouped, rotary)
