"""Layer normalisation, written out, becomes one operator.

d = x - mean(x);  y = gamma * d / sqrt(mean(d * d) + epsilon) + beta        LayerNormalization-17

x: [..., *n];  means over the axes n;  gamma, beta: [*n]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from dlc.passes.base import constant, only_user, scalar
from dlc.passes.edit import Edit
from dlc.passes.extents import contents
from dlc.passes.rewrite import Rewrite

LAYER_NORM = 17
"""First opset with the operator LayerNormalization."""


@dataclass(frozen=True)
class FuseLayerNorm(Rewrite):
    """Layer normalisation out of means, differences and a square root.

    Not applied below opset 17, over other axes than the last ones, if epsilon or gamma is not constant, if a value in
    between has another reader or is a graph output, or in another type than FLOAT. Sites are the square roots of
    variances, and the LayerNormalization nodes that are there already.
    """

    name: ClassVar[str] = "fuse-layer-norm"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return the roots of variances, and the operators that are there."""
        return (n for n in graph if _is(n, "LayerNormalization") or (_is(n, "Sqrt") and _variance(n) is not None))

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Fuse around one square root."""
        if node.op_type == "LayerNormalization":
            return "already fused"
        if (opset := edit.model.graph.opset_imports.get("", 1)) < LAYER_NORM:
            return f"opset {opset} has no LayerNormalization; it came with {LAYER_NORM}"
        if (variance := _variance(node)) is None:
            return "what is averaged is not the square of x - mean(x)"
        if isinstance(norm := _match(node, variance), str):
            return norm
        y = norm.last.outputs[0]
        inputs = [norm.x, norm.gamma] if norm.beta is None else [norm.x, norm.gamma, norm.beta]
        fused = edit.node(
            "LayerNormalization", inputs, f"{norm.last.name}.layer_norm", dtype=y.dtype, shape=y.shape,
            attributes={"axis": norm.axis},
        )  # fmt: skip
        fused.attributes["epsilon"] = ir.AttrFloat32("epsilon", norm.epsilon)
        edit.replace(norm.last, fused)
        return None


@dataclass(frozen=True, slots=True)
class _Norm:
    """What a LayerNormalization needs; ``last`` is the node whose output it gives."""

    x: ir.Value
    gamma: ir.Value
    beta: ir.Value | None
    axis: int
    epsilon: float
    last: ir.Node


@dataclass(frozen=True, slots=True)
class _Variance:
    """``mean(squares) + epsilon``."""

    add: ir.Node
    mean: ir.Node
    epsilon: float | None


def _variance(sqrt: ir.Node) -> _Variance | None:
    add = _made_by(sqrt.inputs[0], "Add")
    if add is None:
        return None
    for mean, epsilon in ((0, 1), (1, 0)):
        if (found := _made_by(add.inputs[mean], "ReduceMean")) is not None:
            return _Variance(add, found, scalar(add.inputs[epsilon]))
    return None


def _match(sqrt: ir.Node, variance: _Variance) -> _Norm | str:  # noqa: PLR0911 - one return a guard
    if variance.epsilon is None:
        return "epsilon is not constant"
    square = _square(variance.mean.inputs[0])
    difference = _made_by(square.inputs[0], "Sub") if square is not None else None
    mean = _made_by(difference.inputs[1], "ReduceMean") if difference is not None else None
    if square is None or difference is None or mean is None or mean.inputs[0] is not difference.inputs[0]:
        return "what is averaged is not the square of x - mean(x)"
    x = mean.inputs[0]
    assert x is not None
    if x.dtype != ir.DataType.FLOAT:
        return f"dtype is {x.dtype.name if x.dtype else 'unknown'}, not FLOAT"
    if x.shape is None or (axis := _axis(mean, len(x.shape))) is None or _axis(variance.mean, len(x.shape)) != axis:
        return "the means are not over the last axes, kept"
    quotient = _quotient(sqrt, difference)
    if isinstance(quotient, str):
        return quotient
    sizes = tuple(x.shape)[axis:]
    scaled, gamma = _with_constant(quotient, "Mul", sizes)
    if scaled is None or gamma is None:
        return "no product with a constant gamma of the normalised shape follows"
    shifted, beta = _with_constant(scaled, "Add", sizes)
    inside = {mean: {difference}, difference: {square, quotient}, square: {variance.mean},
              variance.mean: {variance.add}, variance.add: {sqrt}}  # fmt: skip
    for node, readers in inside.items():
        if node.outputs[0].is_graph_output() or {u.node for u in node.outputs[0].uses()} != readers:
            return "a value in between has another reader or is a graph output"
    return _Norm(x, gamma, beta, axis - len(x.shape), variance.epsilon, shifted or scaled)


def _square(value: ir.Value | None) -> ir.Node | None:
    """Return the node that squares: Pow(d, 2) or Mul(d, d)."""
    if (power := _made_by(value, "Pow")) is not None and scalar(power.inputs[1]) == 2.0:
        return power
    product = _made_by(value, "Mul")
    return product if product is not None and product.inputs[0] is product.inputs[1] else None


def _quotient(sqrt: ir.Node, difference: ir.Node) -> ir.Node | str:
    """Return ``d / sqrt``, or ``d * (1 / sqrt)``."""
    node, root, wanted = only_user(sqrt.outputs[0]), sqrt.outputs[0], "Div"
    if node is not None and _is(node, "Reciprocal"):
        root, wanted = node.outputs[0], "Mul"
        node = only_user(root)
    if node is None:
        return "a value in between has another reader or is a graph output"
    pair, read = [difference.outputs[0], root], list(node.inputs)
    matching = read == pair or (wanted == "Mul" and read == pair[::-1])
    return node if _is(node, wanted) and matching else "the difference is not divided by the square root"


def _with_constant(
    node: ir.Node, op_type: str, sizes: Sequence[object]
) -> tuple[ir.Node, ir.Value] | tuple[None, None]:
    """Return the only reader of a node, ``op_type`` with a constant of the normalised shape, and that constant."""
    user = only_user(node.outputs[0])
    if user is None or not _is(user, op_type):
        return None, None
    other = user.inputs[1] if user.inputs[0] is node.outputs[0] else user.inputs[0]
    array = constant(other)
    return (user, other) if other is not None and array is not None and array.shape == tuple(sizes) else (None, None)


def _axis(mean: ir.Node, rank: int) -> int | None:
    """First of the reduced axes, if they are the last ones and are kept."""
    if not mean.attributes.get_int("keepdims", 1):
        return None
    given = contents(mean.inputs[1]) if len(mean.inputs) > 1 else tuple(mean.attributes.get_ints("axes", ()))
    axes = sorted(a % rank for a in given or () if isinstance(a, int))
    return axes[0] if axes and axes == list(range(axes[0], rank)) else None


def _is(node: ir.Node, op_type: str) -> bool:
    return node.op_type == op_type and node.domain == ""


def _made_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and _is(node, op_type) else None
