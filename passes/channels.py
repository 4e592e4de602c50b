"""What is done to each output channel of a weighted node, moved into its weight and bias.

    (W x + b) * s + t  =  W' x + b'        W' = W * s,  b' = b * s + t

s, t: [M].  M is another axis of W in each operator: Conv [M, C/g, *k];  ConvTranspose [C, M/g, *k], group by group;
Gemm [K, M], or [M, K] with transB;  MatMul [K, M].
Gemm computes alpha A B + beta C: alpha stays, b = beta C, and beta becomes 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant, only_user
from dlc.passes.edit import Edit
from dlc.types import Array, Floats

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True, slots=True)
class Weighted:
    """A node whose weight is a constant of its own. ``bias``: [M], [1], or zero."""

    node: ir.Node
    weight: Array
    bias: Floats

    @property
    def channels(self) -> int:
        """M, the number of output channels."""
        groups = self.node.attributes.get_int("group", 1)
        if self.node.op_type == "ConvTranspose":
            return int(self.weight.shape[1]) * groups
        first = self.node.op_type == "Conv" or self.node.attributes.get_int("transB", 0) == 1
        return int(self.weight.shape[0 if first else -1])


def before(x: ir.Value | None, node: ir.Node, ops: Sequence[str]) -> Weighted | str:
    """Return the weighted node, one of ``ops``, that computes ``x`` for ``node`` alone, or say why there is none."""
    producer = x.producer() if x is not None else None
    if x is None or producer is None or producer.domain != "" or producer.op_type not in ops:
        return f"no {', '.join(ops[:-1])} or {ops[-1]} before it"
    if producer.graph is not node.graph:
        return f"{producer.op_type} belongs to another graph"
    if only_user(x) is None:
        return f"the output of {producer.op_type} has another reader or is a graph output"
    return weighted(producer)


def weighted(node: ir.Node) -> Weighted | str:
    """Return a node with its weight and bias, or say why they cannot be changed."""
    w = node.inputs[1]
    if w is None or (weight := constant(w)) is None:
        return f"the weight of {node.op_type} is not constant"
    if len(tuple(w.uses())) > 1 or w.is_graph_output():
        return f"the weight of {node.op_type} has another reader"
    if w.dtype not in FLOATS:
        return f"the weight of {node.op_type} is {w.dtype.name if w.dtype else 'untyped'}"
    if node.op_type == "MatMul":
        return Weighted(node, weight, np.zeros(1)) if weight.ndim == 2 else "the weight of MatMul is no matrix"
    if (bias := _bias(node)) is None:
        return f"the bias of {node.op_type} is not one constant per channel"
    return Weighted(node, weight, bias)


def fold(what: Weighted, scale: Floats, shift: Floats, edit: Edit) -> str | None:
    """Scale and shift the output channels, [M] or [1] each; computed in 64 bits and rounded once."""
    scale = np.broadcast_to(scale, what.channels)
    return change(what, SCALED[what.node.op_type](what.node, what.weight.astype(np.float64), scale),
                  what.bias * scale + shift, edit)  # fmt: skip


def change(what: Weighted, weight: Floats, bias: Floats, edit: Edit) -> str | None:
    """Give a node another weight and bias, or say why they cannot be stored in the type of the old ones."""
    node, kind = what.node, what.weight.dtype
    if not (fits(weight, kind) and fits(bias, kind)):
        return f"the scaled weight leaves the range of {kind}"
    if node.op_type == "MatMul" and bias.any():
        return "a MatMul has no bias"
    old = node.inputs[1:3]
    new = edit.constant(f"{node.name}.weight", weight.astype(kind))
    if node.op_type != "MatMul" and (bias.any() or len(old) > 1):
        full = np.broadcast_to(bias, what.channels).astype(kind)
        offset = edit.constant(f"{node.name}.bias", full)
        node.resize_inputs(3)
        node.replace_input_with(2, offset)
    node.replace_input_with(1, new)
    if node.attributes.get_float("beta", 1.0) != 1.0:
        node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    edit.drop_unused(old)
    edit.context(node)
    return None


def fits(array: Floats, kind: np.dtype[Any]) -> bool:
    """Whether an array keeps its precision in a type: the largest number is 0, or a normal number of that type."""
    limits, largest = np.finfo(kind), float(np.abs(array).max(initial=0.0))
    return largest == 0 or float(limits.tiny) <= largest <= float(limits.max)  # not if infinite or NaN


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


def _scale_matrix(node: ir.Node, weight: Floats, s: Floats) -> Floats:
    return weight * (s[:, None] if node.attributes.get_int("transB", 0) else s[None, :])


SCALED: dict[str, Callable[[ir.Node, Floats, Floats], Floats]] = {
    "Conv": _scale_conv,
    "ConvTranspose": _scale_conv_transpose,
    "Gemm": _scale_matrix,
    "MatMul": _scale_matrix,
}
