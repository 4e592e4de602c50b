"""Fold a constant per channel after a weighted node into its weight and bias.

    y = (W x + b) * c,  y = (W x + b) / c,  y = (W x + b) + c,  y = (W x + b) - c,  y = c - (W x + b)

c: one number, or one a channel: [M, 1, ...] after Conv and ConvTranspose (axis 1), [M] after Gemm and MatMul (the last
axis). A MatMul has no bias: only a scale is folded into it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant, only_user
from dlc.passes.channels import Weighted, before, fold
from dlc.passes.edit import Edit
from dlc.passes.rewrite import Rewrite
from dlc.passes.weighted import label
from dlc.types import Array, Floats

OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class FoldScaleBias(Rewrite):
    """Mul, Div, Add or Sub of a constant per channel disappears into the Conv, ConvTranspose, Gemm or MatMul before it.

    Not applied if the constant differs along another axis or changes the shape, if the node before has other readers,
    if its weight or bias is not constant or is shared, or if the scaled weight leaves the range of its type.
    """

    name: ClassVar[str] = "fold-scale-bias"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return each Mul, Div, Add and Sub with one constant operand, the other computed by a weighted node."""
        return (n for n in graph if _folds(n))

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Fold one constant, and those behind it as far as they fold: only then does the weighted node compute them."""
        if isinstance(found := _folded(node, edit), str):
            return found
        while (after := only_user(found.outputs[0])) is not None and label(after) not in self.skip:
            if not _folds(after) or isinstance(_folded(after, edit), str):
                break
        return None


ARITHMETIC = ("Mul", "Div", "Add", "Sub")


def per_channel(array: Array, rank: int | None, axis: int, channels: int) -> Floats | None:
    """Return the numbers of a constant, [channels] or [1], that broadcasts along all axes but one; else None.

    ``rank``: of what it is combined with, None if unknown.
    """
    if array.dtype.kind != "f" or (rank is None and array.ndim > 1) or (rank is not None and array.ndim > rank):
        return None
    if array.size == 1:
        return array.astype(np.float64).reshape(1)
    place = array.ndim - (rank or 1) + axis if axis >= 0 else array.ndim + axis
    if not 0 <= place < array.ndim or array.size != array.shape[place] or array.size != channels:
        return None
    return array.astype(np.float64).reshape(-1)


def affine(op: str, c: Floats, *, left: bool) -> tuple[Floats, Floats] | None:
    """Return scale and shift of ``x op c``, or of ``c op x`` where c is the left operand; None if there are none."""
    one, zero = np.ones(1), np.zeros(1)
    if op == "Div":
        return None if left or not c.all() else (1 / c, zero)
    if op == "Mul":
        return c, zero
    return (-one, c) if left and op == "Sub" else (one, -c if op == "Sub" else c)


def _folded(node: ir.Node, edit: Edit) -> ir.Node | str:
    """Fold one constant into the weighted node before it and return that, or say why not."""
    left = constant(node.inputs[0]) is not None
    x, array = node.inputs[left], constant(node.inputs[not left])
    assert x is not None
    assert array is not None
    if isinstance(what := before(x, node, OPS), str):
        return what
    if (c := per_channel(array, _rank(what, x), 1 if "Conv" in what.node.op_type else -1, what.channels)) is None:
        return "the constant is not one per channel"
    if (terms := affine(node.op_type, c, left=left)) is None:
        return "divides by the output, or by zero"
    if (reason := fold(what, *terms, edit)) is not None:
        return reason
    edit.stand_in(node.outputs[0], what.node.outputs[0])
    edit.remove(node)
    return what.node


def _folds(node: ir.Node) -> bool:
    """Whether a node combines a constant with what a weighted node computes."""
    if node.domain != "" or node.op_type not in ARITHMETIC:
        return False
    constants = [constant(v) is not None for v in node.inputs]
    x = node.inputs[constants[0]]
    producer = x.producer() if x is not None else None
    return sum(constants) == 1 and producer is not None and producer.domain == "" and producer.op_type in OPS


def _rank(what: Weighted, x: ir.Value) -> int | None:
    """Rank of a node's output: that of the weight, but of a MatMul, which takes any."""
    if what.node.op_type == "MatMul":
        return None if x.shape is None else len(x.shape)
    return what.weight.ndim
