"""Layer normalisation, written out, becomes one operator.

d = x - mean(x);  y = gamma * d / sqrt(mean(d * d) + epsilon) + beta        LayerNormalization-17

x: [..., *n];  means over the axes n;  gamma, beta: [*n]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from dlc.passes.base import constant, only_user
from dlc.passes.edit import Edit
from dlc.passes.match_norm import is_op, mean_square, other, standardised
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
        return (n for n in graph if is_op(n, "LayerNormalization") or mean_square(n) is not None)

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Fuse around one square root."""
        if node.op_type == "LayerNormalization":
            return "already fused"
        if (opset := edit.model.graph.opset_imports.get("", 1)) < LAYER_NORM:
            return f"opset {opset} has no LayerNormalization; it came with {LAYER_NORM}"
        if isinstance(norm := _match(node), str):
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


def _match(root: ir.Node) -> _Norm | str:
    found = standardised(root, lambda axes, rank: axes == tuple(range(axes[0], rank)), "the last axes")
    if isinstance(found, str):
        return found
    sizes = found.shape[found.axes[0] :]
    scaled, gamma = _with_constant(found.last, "Mul", sizes)
    if scaled is None or gamma is None:
        return "no product with a constant gamma of the normalised shape follows"
    shifted, beta = _with_constant(scaled, "Add", sizes)
    return _Norm(found.x, gamma, beta, -len(sizes), found.epsilon, shifted or scaled)


def _with_constant(
    node: ir.Node, op_type: str, sizes: Sequence[object]
) -> tuple[ir.Node, ir.Value] | tuple[None, None]:
    """Return the only reader of a node, ``op_type`` with a constant of the normalised shape, and that constant."""
    user = only_user(node.outputs[0])
    if user is None or not is_op(user, op_type):
        return None, None
    value = other(user, node.outputs[0])
    array = constant(value)
    return (user, value) if value is not None and array is not None and array.shape == tuple(sizes) else (None, None)
