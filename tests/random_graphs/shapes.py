"""Transposes, computed shapes and grids: what moves numbers and leaves them as they are."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tests.random_graphs.sketch import Sketch, Tensor


def transposed(g: Sketch, x: Tensor) -> Tensor:
    """Work in another order of axes and come back, or not quite."""
    rank = len(x.dims)
    perm = [int(a) for a in g.rng.permutation(rank)]
    back = [int(a) for a in np.argsort(perm)]
    v = g.op("Transpose", x.value, perm=perm)
    for _ in range(int(g.rng.integers(1, 4))):
        v = _anywhere(g, v, rank, perm)
    if g.chance(0.3):
        branch = g.op("Transpose", g.op("Neg", v), perm=back)
        return Tensor(g.either("Add", branch, g.op("Transpose", v, perm=back)), x.dims)
    if rank == 2 and g.chance(0.2):
        return Tensor(g.op("Transpose", v), (x.dims[0], x.dims[1])) if perm == [1, 0] else Tensor(v, x.dims)
    return Tensor(g.op("Transpose", v, perm=back), x.dims)


def _anywhere(g: Sketch, v: ir.Value, rank: int, perm: list[int]) -> ir.Value:  # noqa: PLR0911 - one return a kind
    kind = g.pick("unary", "constant", "softmax", "reduce", "pad", "split", "where", "concat")
    axis = int(g.rng.integers(-rank, rank))
    if kind == "constant":
        return g.either("Mul", v, g.number(1.5))
    if kind == "softmax":
        return g.op("Softmax", v, axis=axis)
    if kind == "reduce":
        return g.op("Sub", v, g.mean(v, axis))
    if kind == "pad" and perm[axis] != 0:
        ends = [1 if i == axis % rank else 0 for i in range(rank)]
        grown = g.op("Pad", v, g.ints(*ends, *[0] * rank))
        return g.op("Slice", grown, g.ints(1), g.ints((1 << 63) - 1), g.ints(axis))
    if kind == "split" and perm[axis] == rank - 1 and g.opset < 18:
        parts = g.several("Split", v, outputs=2, axis=axis)
        return g.op("Concat", *reversed(parts), axis=axis)
    if kind == "where":
        return g.op("Where", g.op("Greater", v, g.number(0)), v, g.number(0.5))
    if kind == "concat":
        return (
            g.op("ReduceMax", g.op("Unsqueeze", v, g.ints(0)), axes=[0], keepdims=0) if g.opset < 18 else g.op("Abs", v)
        )
    return g.op(g.pick("Neg", "Tanh", "Relu"), v)


def reshaped(g: Sketch, x: Tensor) -> Tensor:
    """Flatten by a computed shape, work on rows, and return to the sizes there were."""
    last = x.dims[-1]
    assert isinstance(last, int)
    shape = g.op("Shape", x.value)
    rows = g.ints(-1, last) if g.chance(0.5) else g.op("Concat", g.ints(-1), _last(g, shape, len(x.dims)), axis=0)
    v = g.op("Reshape", x.value, rows)
    v = g.op("MatMul", v, g.weight(last, last)) if g.chance(0.5) else g.op("Tanh", v)
    lead = g.op("Slice", shape, g.ints(0), g.ints(len(x.dims) - 1), g.ints(0))
    back = shape if g.chance(0.3) else g.op("Concat", lead, g.ints(last), axis=0)
    return Tensor(g.op("Reshape", v, back), x.dims)


def _last(g: Sketch, shape: ir.Value, rank: int) -> ir.Value:
    place = g.pick(-1, rank - 1)
    if g.chance(0.5):
        return g.op("Gather", shape, g.ints(place), axis=0)
    end = (1 << 63) - 1
    return g.op("Slice", shape, g.ints(place), g.ints(g.pick(end, rank)), g.ints(0))


def expanded(g: Sketch, x: Tensor) -> Tensor:
    """Broadcast a row to the sizes of the input, by Expand or by the operator itself."""
    last = x.dims[-1]
    assert isinstance(last, int)
    row = g.weight(*g.pick((last,), (1, last)))
    wide = g.op("Expand", row, g.op("Shape", x.value)) if g.chance(0.7) else row
    return Tensor(g.either("Mul", x.value, wide), x.dims)


def grid(g: Sketch, x: Tensor) -> Tensor:
    """Look a row of numbers up at every position of a grid, as libraries widen a padding mask; x: [n, s, ...]."""
    n, s = x.dims[:2]
    data = g.input((n, s)).value
    zero, one = (g.array(np.array(i, np.int64)) for i in (0, 1))
    ends = [g.op("Squeeze", g.op("Gather", g.op("Shape", data), g.ints(a), axis=0), g.ints(0)) for a in (0, 1)]
    i, j = (g.op("Range", zero, end, one) for end in ends)
    i4, j4 = g.op("Unsqueeze", i, g.ints(1, 2, 3)), g.op("Unsqueeze", j, g.ints(0, 1, 2))
    shape = g.op("Shape", g.op("Max", i4, j4))
    columns = [g.op("Unsqueeze", g.op("Expand", v, shape), g.ints(-1)) for v in (i4, j4)]
    swapped = g.unusual()
    at = g.op("Concat", *columns[:: -1 if swapped and n == s else 1], axis=-1)
    looked = g.op("Reshape", g.op("GatherND", data, at), g.op("Concat", g.op("Shape", data), g.ints(1), axis=0))
    return Tensor(g.either("Add", x.value, looked), x.dims)


def positions(g: Sketch, x: Tensor) -> Tensor:
    """Add the row of a segment and the rows of the first positions, as embeddings are summed; x: [n, s, h]."""
    h, most = x.dims[-1], 9
    assert isinstance(h, int)
    shape = g.op("Shape", x.value)
    end = g.op("Slice", shape, g.ints(1), g.ints(2), g.ints(0))
    order = g.rng.integers(0, most, most) if g.unusual() else np.arange(most)
    at = g.op("Slice", g.array(order.reshape(1, most)), g.ints(0), end, g.ints(1))
    segment = g.weight(h)
    if g.chance(0.6):
        zeros = g.op("GatherElements", g.array(np.zeros((1, most), np.int64)), at, axis=1)
        segment = g.op("Gather", g.weight(2, h), zeros)
    value = g.either("Add", x.value, segment) if g.chance(0.8) else x.value
    return Tensor(g.either("Add", value, g.op("Gather", g.weight(most, h), at)), x.dims)


def pooled(g: Sketch, x: Tensor) -> Tensor:
    """Take the mean of the rows that a mask shows, and take it off each; x: [n, s, h]."""
    n, s = x.dims[:2]
    seen = g.op("Cast", g.op("Unsqueeze", g.input((n, s), ir.DataType.INT64).value, g.ints(-1)), to=int(g.dtype))
    keepdims = g.pick(0, 1)
    total = g.op("ReduceSum", g.either("Mul", x.value, seen), g.ints(g.pick(1, -2)), keepdims=keepdims)
    count = g.op("Max", g.op("ReduceSum", seen, g.ints(1), keepdims=keepdims), g.number(1))
    mean = g.op("Div", total, count)
    return Tensor(g.op("Sub", x.value, mean if keepdims else g.op("Unsqueeze", mean, g.ints(1))), x.dims)


SHAPES = (transposed, transposed, reshaped, expanded)
