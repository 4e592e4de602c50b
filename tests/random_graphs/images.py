"""Convolutions with what surrounds them; x: [n, c, i, j]. Each keeps the sizes of its input."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tests.random_graphs.sketch import Sketch, Tensor
from tests.random_graphs.tokens import hard_swish, silu


def channels(x: Tensor) -> int:
    """Return the second size, which is fixed."""
    c = x.dims[1]
    assert isinstance(c, int)
    return c


def convolution(g: Sketch, x: Tensor) -> Tensor:
    """Pad, convolve, normalise, scale, activate; any of it may be missing."""
    c = channels(x)
    v = _scaled(g, x.value, c) if g.chance(0.3) else x.value
    if g.dtype == ir.DataType.FLOAT and g.chance(0.2):  # what ORT has a kernel for
        v = g.op("ConvTranspose", v, g.weight(c, c, 3, 3), *_bias(g, c), pads=[1, 1, 1, 1])
    else:
        group = g.pick(1, 1, 2, c)
        v, pads = _padded(g, v)
        v = g.op("Conv", v, g.weight(c, c // group, 3, 3), *_bias(g, c), pads=pads, group=group)
    if g.chance(0.5):
        parameters = [g.weight(c, positive=True), g.weight(c), g.weight(c), g.weight(c, positive=True)]
        v = g.op("BatchNormalization", v, *parameters, epsilon=g.pick(1e-5, 1e-3))
    if g.chance(0.4):
        v = _scaled(g, v, c)
    return Tensor(g.op(g.pick("Relu", "Sigmoid", "Tanh"), v) if g.chance(0.6) else v, x.dims)


def _bias(g: Sketch, c: int) -> list[ir.Value]:
    return [g.weight(c)] if g.chance(0.6) else []


def _scaled(g: Sketch, v: ir.Value, c: int) -> ir.Value:
    shape = g.pick((c, 1, 1), (1, c, 1, 1), (1, 1, 4), (c, 1, 1))
    k = g.number(0.75) if g.chance(0.4) else g.weight(*shape, positive=True)
    left, right = (k, v) if g.chance(0.2) else (v, k)
    return g.op(g.pick("Mul", "Div", "Add", "Sub"), left, right)


def _padded(g: Sketch, v: ir.Value) -> tuple[ir.Value, list[int]]:
    """Add a border of one by a Pad, by the reader, or a part of it by either."""
    if g.chance(0.4):
        return v, [1, 1, 1, 1]
    mode, first = g.pick("constant", "constant", "reflect"), g.chance(0.3)
    amounts = g.ints(0, 0, 1, 1, 0, 0, 0 if first else 1, 0 if first else 1)
    value = [g.array(np.array(g.pick(0.0, 0.0, 1.0), g.dtype.numpy()))] if mode == "constant" and g.chance(0.6) else []
    if mode == "reflect" and g.dtype == ir.DataType.FLOAT16:
        return v, [1, 1, 1, 1]
    padded = g.op("Pad", v, amounts, *value, mode=mode)
    return padded, [0, 0, 1, 1] if first else [0, 0, 0, 0]


def pool(g: Sketch, x: Tensor) -> Tensor:
    """A pool with a border, from a Pad or its own."""
    op = g.pick("AveragePool", "MaxPool")
    source = g.op("Relu", x.value) if g.chance(0.6) else x.value
    v, pads = _padded(g, source)
    counted = {"count_include_pad": g.pick(0, 1)} if op == "AveragePool" else {}
    return Tensor(g.op(op, v, kernel_shape=[3, 3], pads=pads, strides=[1, 1], **counted), x.dims)


def padded_once(g: Sketch, x: Tensor) -> Tensor:
    """Pad once for two readers."""
    c = channels(x)
    v = g.op("Pad", g.op("Relu", x.value), g.ints(0, 0, 1, 1, 0, 0, 1, 1))
    left, right = (g.op("Conv", v, g.weight(c, c, 3, 3), *_bias(g, c)) for _ in range(2))
    if g.chance(0.5):
        right = g.op(g.pick("MaxPool", "AveragePool"), v, kernel_shape=[3, 3])
    return Tensor(g.either("Add", left, right), x.dims)


def excite(g: Sketch, x: Tensor) -> Tensor:
    """Scale each channel by what its mean says: squeeze and excite."""
    c = channels(x)
    mean = g.op("GlobalAveragePool", x.value) if g.chance(0.3) else g.mean(x.value, *g.pick((2, 3), (-2, -1), (3, 2)))
    if g.chance(0.5):
        gate = g.op("Conv", mean, g.weight(c, c, 1, 1), *_bias(g, c))
    else:
        flat = g.op("Flatten", mean) if g.chance(0.5) else g.op("Reshape", mean, g.ints(0, c))
        gate = g.op("Gemm", flat, g.weight(c, c), *_bias(g, c), transB=g.pick(0, 1))
        gate = g.op("Unsqueeze", gate, g.ints(2, 3))
    return Tensor(g.either("Mul", x.value, g.op("Sigmoid", gate)), x.dims)


def head(g: Sketch, x: Tensor) -> Tensor:
    """Pool to one row an image, which a Gemm classifies."""
    c, keepdims = channels(x), g.pick(0, 1, 1)
    mean = g.mean(x.value, *g.pick((2, 3), (-1, -2)), keepdims=keepdims)
    flat = g.op("Flatten", mean if keepdims or g.chance(0.5) else g.op("Identity", mean))
    if keepdims and g.chance(0.5):
        flat = g.op("Reshape", mean, g.ints(*g.pick((0, c), (0, -1), (-1, c))))
    return Tensor(g.op("Gemm", flat, g.weight(c, 8), *_bias(g, 8), transB=0), (x.dims[0], 8))


def group_norm(g: Sketch, x: Tensor) -> Tensor:
    """Normalise groups of channels, as PyTorch exports it: instances of a reshaped map, then scale and shift."""
    c, groups = channels(x), g.pick(1, 2, 4)
    flat = g.op("Reshape", x.value, g.ints(0, groups, -1))
    ones, zeros = (g.array(np.full(groups, n, g.dtype.numpy())) for n in (1, 0))
    y = g.op("Reshape", g.op("InstanceNormalization", flat, ones, zeros, epsilon=1e-5), g.op("Shape", x.value))
    y = g.either("Mul", y, g.weight(c, 1, 1, positive=True))
    return Tensor(g.either("Add", y, g.weight(c, 1, 1)) if g.chance(0.8) else y, x.dims)


def instance_norm(g: Sketch, x: Tensor) -> Tensor:
    """Normalise each channel, written out, then scale and shift it."""
    c, axes = channels(x), g.pick((2, 3), (-2, -1), (2, 3))
    d = g.op("Sub", x.value, g.mean(x.value, *axes))
    squared = g.op("Pow", d, g.number(2)) if g.chance(0.5) else g.op("Mul", d, d)
    root = g.op("Sqrt", g.either("Add", g.mean(squared, *axes), g.number(1e-5)))
    y = g.op("Div", d, root) if g.chance(0.7) else g.either("Mul", d, g.op("Reciprocal", root))
    y = g.either("Mul", y, g.weight(c, 1, 1, positive=True)) if g.chance(0.8) else y
    return Tensor(g.either("Add", y, g.weight(1, c, 1, 1)) if g.chance(0.8) else y, x.dims)


def tracked(g: Sketch, x: Tensor) -> Tensor:
    """Instance normalisation by statistics that were tracked: batch normalisation of a batch laid out as channels."""
    c, shape = channels(x), g.op("Shape", x.value)
    count = g.op("Slice", shape, g.ints(0), g.ints(1), g.ints(0))
    once = [g.weight(c, positive=True), g.weight(c), g.weight(c), g.weight(c, positive=True)]
    tiled = [g.op("Tile", v, count) for v in once]
    flat = g.op("Reshape", x.value, g.ints(1, -1, *(d for d in x.dims[2:] if isinstance(d, int))))
    y = g.op("BatchNormalization", flat, *tiled, epsilon=1e-5)
    return Tensor(
        g.op("Reshape", y, shape if g.chance(0.5) else g.ints(-1, *(d for d in x.dims[1:] if isinstance(d, int)))),
        x.dims,
    )


def shortcut(g: Sketch, x: Tensor) -> Tensor:
    """Convolve, add the input again, activate."""
    c = channels(x)
    y = g.op("Conv", x.value, g.weight(c, c, 3, 3), *_bias(g, c), pads=[1, 1, 1, 1])
    y = g.either("Add", y, x.value)
    return Tensor(g.op("Relu", y) if g.chance(0.6) else y, x.dims)


def channels_last(g: Sketch, x: Tensor) -> Tensor:
    """Work on channels last, between two Transposes, as converters from other frameworks do."""
    c = channels(x)
    v = g.op("Transpose", x.value, perm=[0, 2, 3, 1])
    v = g.either("Add", v, g.weight(*g.pick((c,), (1, 1, 1, c), (1,))))
    if g.chance(0.5):
        v = g.op("Softmax", v, axis=g.pick(-1, 3, 2))
    return Tensor(g.op("Relu", g.op("Transpose", v, perm=[0, 3, 1, 2])), x.dims)


IMAGES = (
    convolution, convolution, convolution, pool, padded_once, padded_once, excite, channels_last, group_norm,
    group_norm, instance_norm, tracked, shortcut, silu, hard_swish,
)  # fmt: skip
