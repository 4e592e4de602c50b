"""What models do to the last axis: projections, norms, activations, sums."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from tests.random_graphs.sketch import Sketch, Tensor


def width(x: Tensor) -> int:
    """Return the last size, which is fixed."""
    last = x.dims[-1]
    assert isinstance(last, int)
    return last


def linear(g: Sketch, x: Tensor) -> Tensor:
    """Scale, project, add a bias, scale again; any of it may be missing."""
    h = width(x)
    value = scaled(g, x).value if g.chance(0.4) else x.value
    if len(x.dims) == 2 and g.chance(0.5):
        value = g.op("Gemm", value, g.weight(h, h), g.weight(h), transB=g.pick(0, 1), alpha=g.pick(1.0, 0.5))
    else:
        value = g.op("MatMul", value, g.weight(h, h))
        value = g.either("Add", value, g.weight(h)) if g.chance(0.6) else value
    y = Tensor(value, x.dims)
    return scaled(g, y) if g.chance(0.5) else y


def scaled(g: Sketch, x: Tensor) -> Tensor:
    """Combine with one number, or one a channel."""
    h = width(x)
    c = g.number(1.25) if g.chance(0.4) else g.weight(*g.pick((h,), (1, h), (h,)), positive=True)
    left, right = (c, x.value) if g.chance(0.2) else (x.value, c)
    return Tensor(g.op(g.pick("Mul", "Div", "Add", "Sub", "Mul"), left, right), x.dims)


def layer_norm(g: Sketch, x: Tensor) -> Tensor:
    """Layer normalisation, written out or as an operator, sometimes of a residual sum."""
    h = width(x)
    value = g.either("Add", x.value, linear(g, x).value) if g.chance(0.5) else x.value
    if g.opset >= 17 and g.chance(0.4):
        return Tensor(g.op("LayerNormalization", value, g.weight(h, positive=True), g.weight(h), axis=-1), x.dims)
    axis = -1 if g.chance(0.8) else len(x.dims) - 1
    d = g.op("Sub", value, g.mean(value, axis))
    squared = g.op("Pow", d, g.number(2)) if g.chance(0.6) else g.op("Mul", d, d)
    root = g.op("Sqrt", g.either("Add", g.mean(squared, axis), g.number(1e-5)))
    y = g.op("Div", d, root) if g.chance(0.7) else g.either("Mul", d, g.op("Reciprocal", root))
    y = g.either("Mul", y, g.weight(h, positive=True)) if g.chance(0.9) else y
    return Tensor(g.either("Add", y, g.weight(h)) if g.chance(0.8) else y, x.dims)


def rms_norm(g: Sketch, x: Tensor) -> Tensor:
    """Division by the root of the mean of squares, in the spellings of LLM code."""
    squared = g.op("Pow", x.value, g.number(2)) if g.chance(0.7) else g.op("Mul", x.value, x.value)
    root = g.op("Sqrt", g.either("Add", g.mean(squared, -1), g.number(1e-6)))
    y = g.either("Mul", x.value, g.op("Reciprocal", root)) if g.chance(0.6) else g.op("Div", x.value, root)
    return Tensor(g.either("Mul", g.weight(width(x), positive=True), y) if g.chance(0.9) else y, x.dims)


def gelu(g: Sketch, x: Tensor) -> Tensor:
    """Gelu, exact or nearly so, its three factors in some order."""
    v, root = x.value, 1.4142 if g.unusual() else math.sqrt(2)
    inner = g.op("Div", v, g.number(root)) if g.chance(0.6) else g.either("Mul", v, g.number(1 / root))
    plus = g.either("Add", g.op("Erf", inner), g.number(1))
    if g.chance(0.5):
        return Tensor(g.either("Mul", g.either("Mul", v, plus), g.number(0.5)), x.dims)
    return Tensor(g.either("Mul", g.either("Mul", v, g.number(0.5)), plus), x.dims)


def activation(g: Sketch, x: Tensor) -> Tensor:
    """An activation function, written out."""
    v = x.value
    kind = g.pick("relu", "tanh gelu", "softplus", "leaky")
    if kind == "tanh gelu":
        cube = g.op("Mul", g.op("Mul", v, v), v)
        inner = g.op("Mul", g.op("Add", v, g.op("Mul", cube, g.number(0.044715))), g.number(math.sqrt(2 / math.pi)))
        return Tensor(g.op("Mul", g.op("Mul", v, g.number(0.5)), g.op("Add", g.op("Tanh", inner), g.number(1))), x.dims)
    if kind == "softplus":
        return Tensor(g.op("Log", g.op("Add", g.op("Exp", v), g.number(1))), x.dims)
    return Tensor(g.op("Relu", g.op("Relu", v)) if kind == "relu" else g.op("LeakyRelu", v, alpha=0.1), x.dims)


def silu(g: Sketch, x: Tensor) -> Tensor:
    """SiLU, or with a factor in the sigmoid the quick form of Gelu."""
    v = x.value
    inner = g.either("Mul", v, g.number(1.702)) if g.chance(0.4) else v
    return Tensor(g.either("Mul", v, g.op("Sigmoid", inner)), x.dims)


def hard_swish(g: Sketch, x: Tensor) -> Tensor:
    """HardSwish or HardSigmoid, written out, or the former in terms of the latter."""
    v = x.value
    if g.chance(0.2):
        return Tensor(g.either("Mul", v, g.op("HardSigmoid", v, alpha=1 / 6, beta=0.5)), x.dims)
    ends = [g.array(np.array(n, g.dtype.numpy())) for n in (0, 6)]
    y = g.op("Clip", g.either("Add", v, g.number(3)), *ends)
    y = g.either("Mul", v, y) if g.chance(0.7) else y
    return Tensor(g.op("Div", y, g.number(6)) if g.chance(0.6) else g.either("Mul", y, g.number(1 / 6)), x.dims)


def softmax(g: Sketch, x: Tensor) -> Tensor:
    """Softmax of what may hold minus infinity, with or without a guard."""
    p = g.op("Softmax", x.value, axis=g.pick(-1, len(x.dims) - 1))
    if g.chance(0.5):
        p = g.op("Where", g.op("IsNaN", p), g.array(np.array(0, g.dtype.numpy())), p)
    return Tensor(g.either("Mul", p, x.value) if g.chance(0.5) else p, x.dims)


def repeated(g: Sketch, x: Tensor) -> Tensor:
    """The same computation twice, and a product of several projections of one input."""
    w = g.weight(width(x), width(x))
    one, two = (g.op("MatMul", x.value, w) for _ in range(2))
    if g.chance(0.5):
        two = g.op("MatMul", x.value, g.weight(width(x), width(x)))
    return Tensor(g.either(g.pick("Add", "Mul"), one, two), x.dims)


def rotary(g: Sketch, x: Tensor) -> Tensor:
    """Rotate halves by constant angles."""
    h = width(x)
    half, big = h // 2, (1 << 63) - 1
    ends = (g.ints(0), g.ints(half), g.ints(-1)), (g.ints(half), g.ints(big), g.ints(-1))
    left, right = (g.op("Slice", x.value, *bounds) for bounds in ends)
    turned = g.op("Concat", g.op("Neg", right), left, axis=-1)
    angle = np.asarray(g.rng.uniform(0, 3, h), np.float64)
    cos, sin = (g.array(f(angle).astype(g.dtype.numpy())) for f in (np.cos, np.sin))
    return Tensor(g.either("Add", g.either("Mul", x.value, cos), g.either("Mul", turned, sin)), x.dims)


def neutral(g: Sketch, x: Tensor) -> Tensor:
    """What changes nothing, or nearly nothing."""
    v = x.value
    kind = g.pick("arithmetic", "identity", "cast", "reshape", "dropout", "concat", "slice", "tiny", "if")
    if kind == "arithmetic":
        v = g.op("Sub", g.either("Mul", g.either("Add", v, g.number(0)), g.number(1)), g.number(0))
    elif kind == "tiny":
        v = g.op("Div", g.either("Add", v, g.number(1e-7)), g.number(1.0000001))
    elif kind == "identity":
        v = g.op("Identity", g.op("Identity", v))
    elif kind == "cast":
        wide = ir.DataType.DOUBLE if g.chance(0.7) else g.dtype
        v = g.op("Cast", g.op("Cast", v, to=int(wide)), to=int(g.dtype))
    elif kind == "reshape":
        v = g.op("Reshape", v, g.op("Shape", v)) if g.chance(0.5) else g.op("Expand", v, g.op("Shape", v))
    elif kind == "dropout":
        v = g.op("Dropout", v)
    elif kind == "concat":
        v = g.op("Concat", v, axis=-1)
    elif kind == "slice":
        v = g.op("Slice", v, g.ints(0), g.ints((1 << 63) - 1), g.ints(g.pick(0, -1)))
    else:
        then, other = g.inner(), g.inner()
        outputs = then.op("Neg", v), other.op("Tanh", v)
        v = g.op("If", g.array(np.array(g.chance(0.5))),
                 then_branch=graph(then, [], [outputs[0]]), else_branch=graph(other, [], [outputs[1]]))  # fmt: skip
    return Tensor(g.op(g.pick("Neg", "Abs", "Tanh"), v), x.dims)


def graph(g: Sketch, inputs: list[ir.Value], outputs: list[ir.Value], name: str | None = None) -> ir.Graph:
    """Finish a subgraph, or the body of a function, which states its operator sets."""
    imports = {"": g.opset, **g.root.imports} if g.closed else None
    return ir.Graph(inputs, outputs, nodes=g.nodes, name=name or g.name("body"), opset_imports=imports)


TOKENS = (
    linear, linear, layer_norm, layer_norm, layer_norm, layer_norm, rms_norm, gelu, gelu, silu, hard_swish, activation,
    softmax, repeated,
    rotary, neutral,
)  # fmt: skip
