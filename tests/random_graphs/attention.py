"""Scaled dot-product attention as exporters write it, with each kind of mask; x: [n, s, h]."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from tests.random_graphs.sketch import Dims, Sketch, Tensor
from tests.random_graphs.tokens import width

HEADS = 2


def attention(g: Sketch, x: Tensor) -> Tensor:
    """Project, split into heads, mask, softmax, merge, project."""
    h = width(x)
    size, scale = h // HEADS, 1 / math.sqrt(h // HEADS)
    q, k, v = (_projected(g, x, h) for _ in range(3))
    q = _split(g, q, size, (0, 2, 1, 3))
    k = _keys(g, k, size)
    v = _split(g, v, size, (0, 2, 1, 3))
    both = g.chance(0.3)
    if both:
        q, k = (g.either("Mul", side, g.number(math.sqrt(scale))) for side in (q, k))
    scores = g.op("MatMul", q, k)
    if not both and g.chance(0.9):
        scores = g.either("Mul", scores, g.number(scale)) if g.chance(0.5) else g.op("Div", scores, g.number(1 / scale))
    mask, infinite = _mask(g, x) if g.chance(0.7) else (None, False)
    p = g.op("Softmax", scores if mask is None else g.either("Add", scores, mask), axis=g.pick(-1, -1, 3))
    if infinite or g.chance(0.4):
        p = g.op("Where", g.op("IsNaN", p), g.array(np.array(0, g.dtype.numpy())), p)
    merged = g.op("Transpose", g.op("MatMul", p, v), perm=[0, 2, 1, 3])
    return Tensor(g.op("MatMul", _merged(g, merged, h, x), g.weight(h, h)), x.dims)


def _projected(g: Sketch, x: Tensor, h: int) -> ir.Value:
    y = g.op("MatMul", x.value, g.weight(h, h))
    return g.either("Add", y, g.weight(h)) if g.chance(0.7) else y


def _split(g: Sketch, value: ir.Value, size: int, perm: tuple[int, ...]) -> ir.Value:
    target = (
        g.ints(*g.pick((0, 0, HEADS, size), (0, 0, HEADS, -1), (0, 0, -1, size)))
        if g.chance(0.6)
        else g.op("Concat", _dim(g, value, 0), _dim(g, value, 1), g.ints(HEADS), g.ints(size), axis=0)
    )
    return g.op("Transpose", g.op("Reshape", value, target), perm=list(perm))


def _keys(g: Sketch, value: ir.Value, size: int) -> ir.Value:
    """Split into [n, heads, size, s], in one Transpose or two, or by way of three axes."""
    if g.chance(0.4):
        return _split(g, value, size, (0, 2, 3, 1))
    heads = _split(g, value, size, (0, 2, 1, 3))
    if g.chance(0.5):
        return g.op("Transpose", heads, perm=[0, 1, 3, 2])
    n, s = _dim(g, heads, 0), _dim(g, heads, 2)
    flat = g.op("Reshape", heads, g.op("Concat", g.ints(-1), s, g.ints(size), axis=0))
    back = g.op("Concat", n, g.ints(HEADS), g.ints(size), s, axis=0)
    return g.op("Reshape", g.op("Transpose", flat, perm=[0, 2, 1]), back)


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


def _mask(g: Sketch, x: Tensor) -> tuple[ir.Value, bool]:
    """Return what is added to the scores, and whether a row of it may be all minus infinity.

    Then a guard follows the Softmax: without one such a row is NaN, which ``fuse-attention`` does not promise to keep.
    """
    n, s = x.dims[:2]
    kind = g.pick("choice", "padding", "bias", "causal")
    kinds: tuple[Dims, ...] = (n, 1, 1, s), (n, 1, s, s), (1, 1, s, s), (s, s), (n, HEADS, s, s)
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


ATTENTION = (attention,)
