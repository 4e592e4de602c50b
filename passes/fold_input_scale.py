"""Fold a constant per channel before a weighted node into its weight and bias.

    W (x * s + t) + b  =  W' x + b'        W' = W * s along the input channels,  b' = b + W t

s, t: one number, or one a channel: [C, 1, ...] before Conv and ConvTranspose (axis 1), [K] before Gemm and MatMul (the
last axis). Padding is zero before and after a scale, but not before and after a shift: t needs a Conv without padding.
Input channels of W: Conv [M, C/g, *k], group by group;  ConvTranspose [C, M/g, *k];  Gemm and MatMul [K, M], or [M, K]
with transB.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant, only_user
from dlc.passes.channels import Weighted, change, weighted
from dlc.passes.edit import Edit
from dlc.passes.fold_scale_bias import ARITHMETIC, OPS, affine, per_channel
from dlc.passes.rewrite import Rewrite
from dlc.types import Array, Floats


@dataclass(frozen=True)
class FoldInputScale(Rewrite):
    """Mul, Div, Add or Sub of a constant per channel disappears into the Conv, ConvTranspose, Gemm or MatMul after it.

    Not applied if the constant differs along another axis or changes the shape, if the result has other readers, to a
    shift before padding, ConvTranspose or MatMul, or if the weight or bias cannot be changed.
    """

    name: ClassVar[str] = "fold-input-scale"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return each Mul, Div, Add and Sub with one constant operand before a weighted node, last ones first."""
        return (n for n in reversed(graph) if n.domain == "" and n.op_type in ARITHMETIC and _leads(n))

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:  # noqa: PLR0911 - one return a guard
        """Fold one constant."""
        left = constant(node.inputs[0]) is not None
        x, array, after = node.inputs[left], constant(node.inputs[not left]), _reader(node)
        assert x is not None
        assert array is not None
        assert after is not None
        if only_user(node.outputs[0]) is None:
            return "the result has another reader or is a graph output"
        if isinstance(what := weighted(after), str):
            return what
        if after.attributes.get_int("transA", 0):
            return "Gemm reads it transposed"
        weight = by_input(what)
        channels = weight.shape[0] * weight.shape[2]
        if (c := _per_input(array, x, 1 if "Conv" in after.op_type else -1, channels)) is None:
            return "the constant is not one per channel"
        if (terms := affine(node.op_type, c, left=left)) is None:
            return "divides by the input, or by zero"
        if terms[1].any() and (reason := _no_shift(after)) is not None:
            return reason
        scale, shift = (np.broadcast_to(t, channels).reshape(weight.shape[0], 1, -1, 1) for t in terms)
        alpha = after.attributes.get_float("alpha", 1.0) if after.op_type == "Gemm" else 1.0
        bias = what.bias + alpha * (weight * shift).sum(axis=(2, 3)).reshape(-1) if shift.any() else what.bias
        if (reason := change(what, restored(what, weight * scale), bias, edit)) is not None:
            return reason
        if not edit.bypass(node, x):
            raise AssertionError(f"{node.name} has one reader, so it is no graph output")
        return None


def _reader(node: ir.Node) -> ir.Node | None:
    """Return the weighted node that reads a result as its first operand."""
    readers = (u.node for u in node.outputs[0].uses() if u.idx == 0)
    return next((n for n in readers if n.domain == "" and n.op_type in OPS and n.graph is node.graph), None)


def _leads(node: ir.Node) -> bool:
    return sum(constant(v) is not None for v in node.inputs) == 1 and _reader(node) is not None


def _per_input(array: Array, x: ir.Value, axis: int, channels: int) -> Floats | None:
    """Return the numbers of a constant, [channels] or [1], if combining x with it keeps the shape of x; else None."""
    if array.ndim and (x.shape is None or len(x.shape) < array.ndim or len(x.shape) <= axis):
        return None
    if array.size > 1 and (x.shape is None or x.shape[axis] != channels):
        return None
    return per_channel(array, None if x.shape is None else len(x.shape), axis, channels)


def by_input(what: Weighted) -> Floats:
    """Return the weight as [groups, outputs, inputs, kernel]."""
    node, weight = what.node, what.weight.astype(np.float64)
    groups = node.attributes.get_int("group", 1)
    if node.op_type == "Conv":
        return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    if node.op_type == "ConvTranspose":
        return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1).swapaxes(1, 2)
    matrix = weight if node.attributes.get_int("transB", 0) else weight.T
    return matrix[None, :, :, None]


def restored(what: Weighted, weight: Floats) -> Floats:
    """Return the weight in the shape of its operator again: the inverse of ``by_input``."""
    if what.node.op_type in ("Gemm", "MatMul"):
        matrix = weight[0, :, :, 0]
        return matrix if what.node.attributes.get_int("transB", 0) else np.ascontiguousarray(matrix.T)
    return (weight.swapaxes(1, 2) if what.node.op_type == "ConvTranspose" else weight).reshape(what.weight.shape)


def _no_shift(node: ir.Node) -> str | None:
    """Say why a constant cannot be added to the input of a node through its bias, or return None."""
    if node.op_type in ("ConvTranspose", "MatMul"):
        return f"a shift before {node.op_type} is no bias"
    padded = any(node.attributes.get_ints("pads", ())) or node.attributes.get_string("auto_pad", "NOTSET") not in (
        "NOTSET", "VALID",
    )  # fmt: skip
    return "a shift before padding: the padding would be shifted too" if padded else None
