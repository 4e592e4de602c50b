"""Fold inference-mode BatchNormalization into the weights before it.

    y = gamma * (W x + b - mean) / sqrt(var + eps) + beta  =  W' x + b'
    W' = W * s,  b' = b * s + (beta - mean * s),  s = gamma / sqrt(var + eps)

ONNX BatchNormalization-15, Conv-11, ConvTranspose-11, Gemm-13.  s, b: [M].  M is another axis of W in each:
Conv [M, C/g, *k];  ConvTranspose [C, M/g, *k], group by group;  Gemm [K, M], or [M, K] with transB.
Gemm computes alpha A B + beta C: alpha stays, b = beta C, and beta becomes 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant, only_user
from dlc.passes.edit import Edit
from dlc.passes.rewrite import Rewrite
from dlc.types import Array, Floats

EPSILON = 1e-5
"""Default of the attribute ``epsilon``."""


@dataclass(frozen=True)
class FoldBatchNorm(Rewrite):
    """BatchNormalization after Conv, ConvTranspose or Gemm disappears into their weight and bias.

    Not applied if a parameter is not constant, if the output of the node before it is read elsewhere or is a graph
    output, if the weight has another reader (folding would store it twice), or in training mode.
    """

    name: ClassVar[str] = "fold-batch-norm"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return every BatchNormalization."""
        return (n for n in graph if n.op_type == "BatchNormalization" and n.domain == "")

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Fold one BatchNormalization."""
        if isinstance(found := _match(node), str):
            return found
        before, weight, bias, params = found
        _scale(before, weight, bias, params, edit)
        edit.context(before)
        edit.stand_in(node.outputs[0], before.outputs[0])
        edit.remove(node)
        return None


def _match(bn: ir.Node) -> tuple[ir.Node, Array, Floats, _Params] | str:  # noqa: PLR0911 - one return a guard
    """Return the node before, its weight and bias, and what to fold into them; or say why not."""
    x = bn.inputs[0]
    before = x.producer() if x is not None else None
    if x is None or before is None or before.domain != "" or before.op_type not in SCALED:
        return "no Conv, ConvTranspose or Gemm before it"
    if bn.attributes.get_int("training_mode", 0) or any(v.name for v in bn.outputs[1:]):
        return "runs in training mode"
    if (params := _params(bn)) is None:
        return "scale, bias, mean or variance is not constant"
    if before.graph is not bn.graph:
        return f"{before.op_type} belongs to another graph"
    if only_user(x) is None:
        return f"the output of {before.op_type} has another reader or is a graph output"
    w = before.inputs[1]
    if w is None or (weight := constant(w)) is None:
        return f"the weight of {before.op_type} is not constant"
    if len(tuple(w.uses())) > 1 or w.is_graph_output():
        return f"the weight of {before.op_type} has another reader"
    if (bias := _bias(before)) is None:
        return f"the bias of {before.op_type} is not one constant per channel"
    return before, weight, bias, params


@dataclass(frozen=True, slots=True)
class _Params:
    """Per channel: ``y = x * scale + shift``. [M]."""

    scale: Floats
    shift: Floats


def _params(bn: ir.Node) -> _Params | None:
    arrays = [constant(v) for v in bn.inputs[1:5]]
    gamma, beta, mean, var = (None if a is None else a.astype(np.float64) for a in arrays)
    if gamma is None or beta is None or mean is None or var is None:
        return None
    scale = gamma / np.sqrt(var + bn.attributes.get_float("epsilon", EPSILON))
    return _Params(scale, beta - mean * scale)


def _bias(node: ir.Node) -> Floats | None:
    """Return the bias, [M] or [1]; None if it is not constant or, in a Gemm, differs from row to row."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return np.zeros(1)
    bias = constant(node.inputs[2])
    if bias is None or any(size != 1 for size in bias.shape[:-1]):
        return None
    share = node.attributes.get_float("beta", 1.0) if node.op_type == "Gemm" else 1.0
    return bias.astype(np.float64).reshape(-1) * share


def _scale_conv(_: ir.Node, weight: Floats, s: Floats) -> Floats:
    return weight * s.reshape(-1, *[1] * (weight.ndim - 1))  # [M, C/g, *k]


def _scale_conv_transpose(node: ir.Node, weight: Floats, s: Floats) -> Floats:
    groups = node.attributes.get_int("group", 1)
    grouped = weight.reshape(groups, -1, *weight.shape[1:])  # [g, C/g, M/g, *k]
    scaled = grouped * s.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
    return scaled.reshape(weight.shape)


def _scale_gemm(node: ir.Node, weight: Floats, s: Floats) -> Floats:
    return weight * (s[:, None] if node.attributes.get_int("transB", 0) else s[None, :])


SCALED: dict[str, Callable[[ir.Node, Floats, Floats], Floats]] = {
    "Conv": _scale_conv,
    "ConvTranspose": _scale_conv_transpose,
    "Gemm": _scale_gemm,
}


def _scale(node: ir.Node, weight: Array, bias: Floats, params: _Params, edit: Edit) -> None:
    """Give the node a new weight and bias, computed in 64 bits and rounded once."""
    scaled = SCALED[node.op_type](node, weight.astype(np.float64), params.scale)
    shifted = bias * params.scale + params.shift
    old = node.inputs[1:3]
    new = edit.constant(f"{node.name}.weight", scaled.astype(weight.dtype))
    offset = edit.constant(f"{node.name}.bias", shifted.astype(weight.dtype))
    node.resize_inputs(3)
    node.replace_input_with(1, new)
    node.replace_input_with(2, offset)
    if node.attributes.get_float("beta", 1.0) != 1.0:
        node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    edit.drop_unused(old)
