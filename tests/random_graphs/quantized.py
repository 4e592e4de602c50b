"""Quantized products and the movement of quantized data; x: [n, s, h] FLOAT, as it is fed.

A rounding before a quantization may change a level, and no bound of roundings holds after that. So a family here reads
an input of the graph, or what it made of one itself, and only rewrites of quantized graphs change what it computes:
their integers are the same, and their roundings those of the scales.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from tests.random_graphs.sketch import Sketch, Tensor
from tests.random_graphs.tokens import width


def integer_product(g: Sketch, x: Tensor) -> Tensor:
    """Multiply what is quantized at run time, as ``quantize_dynamic`` writes it."""
    levels = g.several("DynamicQuantizeLinear", x.value, outputs=3)
    return Tensor(_multiplied(g, levels, width(x), width(x)), x.dims)


def quantized_twice(g: Sketch, x: Tensor) -> Tensor:
    """Multiply by two weights what is quantized for each, the second time perhaps in another shape."""
    h = width(x)
    viewed = g.op("Reshape", x.value, g.ints(-1, h)) if g.chance(0.4) else x.value
    one, two = (_multiplied(g, g.several("DynamicQuantizeLinear", v, outputs=3), h, h) for v in (x.value, viewed))
    if viewed is not x.value:
        two = g.op("Reshape", two, g.op("Shape", x.value))
    return Tensor(g.either("Add", one, two), x.dims)


def packed(g: Sketch, x: Tensor) -> Tensor:
    """Multiply by two weights side by side in one operator, and split the columns."""
    h = width(x)
    q, s, z = g.several("DynamicQuantizeLinear", x.value, outputs=3)
    kind = g.pick("int8", "uint8")
    weight, scale, zero = _levels(g, (h, 2 * h), kind), _scale(g, 2 * h), _zero(g, kind)
    operands = q, weight, s, scale, z, zero, g.weight(2 * h) if g.chance(0.6) else None
    wide = g.contributed("MatMulIntegerToFloat", *operands, shape=(*x.dims[:-1], 2 * h))
    left, right = g.several("Split", wide, g.ints(h, h), outputs=2, axis=-1)
    return Tensor(g.either("Mul", left, g.op("Tanh", right)), x.dims)


def moved(g: Sketch, x: Tensor) -> Tensor:
    """Move data between two quantizations of the same levels, now and then of others."""
    perm = [int(a) for a in g.rng.permutation(len(x.dims))]
    back = [int(a) for a in np.argsort(perm)]
    scale = g.array(np.array(0.02, np.float32))
    zero = g.array(np.array(3, g.pick("int8", "uint8")))
    other = g.array(np.array(0.03, np.float32)) if g.unusual() else scale
    v = g.op("DequantizeLinear", g.op("QuantizeLinear", x.value, scale, zero), scale, zero)
    v = g.op("Transpose", v, perm=perm)
    if g.chance(0.5):
        at = back[-1]
        v = g.op("Slice", g.op("Concat", v, v, axis=at), g.ints(0), g.ints(width(x)), g.ints(at))
    v = g.op("DequantizeLinear", g.op("QuantizeLinear", v, other, zero), other, zero)
    return Tensor(g.op("Transpose", v, perm=back), x.dims)


def _multiplied(g: Sketch, levels: Sequence[ir.Value], rows: int, columns: int) -> ir.Value:
    """Multiply by a weight, scale, and add a bias, perhaps."""
    q, s, z = levels
    kind = g.pick("int8", "uint8")
    product = g.op("MatMulInteger", q, _levels(g, (rows, columns), kind), z, _zero(g, kind))
    scales = g.either("Mul", s, _scale(g, columns))
    y = g.either("Mul", g.op("Cast", product, to=int(ir.DataType.FLOAT)), scales)
    return g.either("Add", y, g.weight(columns)) if g.chance(0.6) else y


def _levels(g: Sketch, shape: tuple[int, int], kind: str) -> ir.Value:
    limits = np.iinfo(np.dtype(kind))
    return g.array(g.rng.integers(limits.min, limits.max + 1, shape).astype(kind))


def _scale(g: Sketch, columns: int) -> ir.Value:
    """One scale, or one a column."""
    return g.array(g.rng.uniform(0.005, 0.02, g.pick((), (1,), (columns,))).astype(np.float32))


def _zero(g: Sketch, kind: str) -> ir.Value | None:
    return g.array(np.array(g.pick(0, 7), kind)) if g.chance(0.8) else None


QUANTIZED = (integer_product, quantized_twice, packed, moved)
