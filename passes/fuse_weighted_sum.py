"""A sum of rows, each times a weight, becomes a product of matrices: what a masked mean adds up.

    sum_i x[.., i, :] * m[.., i]  =  m^T x        x: [.., s, k], m: [.., s, 1]

ONNX Mul-14, ReduceSum-13, MatMul-13; com.microsoft FusedMatMul-1, which transposes m itself. The sum has s terms in
another order: each way errs by at most s·eps of the sum of magnitudes. A product multiplies by 0 as Mul does, so 0
times infinity is NaN in either. 0.32x for [1, 32, 384] (ONNX Runtime 1.32, AVX-512, one thread).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import onnx_ir as ir

from dlc.passes.base import only_user
from dlc.passes.edit import Edit
from dlc.passes.extents import Extents, extents
from dlc.passes.pool_mean import reduced_axes
from dlc.passes.rewrite import Rewrite

MICROSOFT = "com.microsoft"
OPERANDS = 13
"""First opset in which Squeeze and Unsqueeze take their axes as an operand."""


@dataclass(frozen=True)
class FuseWeightedSum(Rewrite):
    """ReduceSum over the rows of a Mul by one weight a row becomes MatMul, or FusedMatMul.

    ``fused``: let FusedMatMul transpose the weights. Not applied if the product has another reader, if the sum is not
    over the last axis but one, if the sizes of the factors are unknown or differ there, below opset 13, or in another
    type than FLOAT.
    Sites are the ReduceSum nodes.
    """

    name: ClassVar[str] = "fuse-weighted-sum"
    fused: bool = False

    def alternatives(self) -> tuple[Self, ...]:
        """Return the plain product and the fused one."""
        return tuple(replace(self, fused=fused) for fused in (False, True))

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return each ReduceSum of a Mul."""
        return (n for n in graph if n.op_type == "ReduceSum" and n.domain == "" and _product(n) is not None)

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Replace one sum."""
        product, y = _product(node), node.outputs[0]
        assert product is not None
        shape = extents(product.outputs[0])
        if y.dtype != ir.DataType.FLOAT:
            return f"dtype is {y.dtype.name if y.dtype else 'unknown'}, not FLOAT"
        if shape is None or reduced_axes(node, len(shape)) != (len(shape) - 2,):
            return "the sum is not over the last axis but one"
        if edit.model.graph.opset_imports.get("", 1) < OPERANDS:
            return f"the opset is below {OPERANDS}"
        if only_user(product.outputs[0]) is not node:
            return "the product has another reader"
        if isinstance(found := _factors(product), str):
            return found
        x, m = found
        summed = self._product_of_matrices(node, x, m, (*shape[:-2], 1, shape[-1]), edit)
        if node.attributes.get_int("keepdims", 1) == 0:
            shape = (*shape[:-2], shape[-1])
            summed.append(_moved("Squeeze", summed[-1].outputs[0], -2, f"{node.name}.row", shape, edit))
        edit.replace(node, summed)
        return None

    def _product_of_matrices(
        self, node: ir.Node, x: ir.Value, m: ir.Value, shape: Extents, edit: Edit
    ) -> list[ir.Node]:  # fmt: skip
        """Return the nodes of m^T x."""
        name, sizes = f"{node.name}.product", ir.Shape(shape)
        if self.fused:
            edit.require(MICROSOFT)
            turned = {"transA": 1}
            return [
                edit.node(
                    "FusedMatMul", [m, x], name, dtype=x.dtype, shape=sizes, attributes=turned, domain=MICROSOFT
                )
            ]  # fmt: skip
        lead, rows = (extents(m) or ())[:-2], (extents(m) or ())[-2]
        flat = _moved("Squeeze", m, -1, f"{node.name}.weights", (*lead, rows), edit)
        row = _moved("Unsqueeze", flat.outputs[0], -2, f"{node.name}.weights_row", (*lead, 1, rows), edit)
        return [flat, row, edit.node("MatMul", [row.outputs[0], x], name, dtype=x.dtype, shape=sizes)]


def _moved(op: str, x: ir.Value, axis: int, name: str, shape: Extents, edit: Edit) -> ir.Node:
    """Drop or add one axis."""
    axes = edit.constant(f"{name}.axes", np.array([axis], np.int64))
    return edit.node(op, [x, axes], name, dtype=x.dtype, shape=ir.Shape(shape))


def _product(node: ir.Node) -> ir.Node | None:
    producer = node.inputs[0].producer() if node.inputs[0] is not None else None
    return producer if producer is not None and producer.op_type == "Mul" and producer.domain == "" else None


def _factors(product: ir.Node) -> tuple[ir.Value, ir.Value] | str:
    """Return the rows and their weights, or say why they are none."""
    for x, m in (tuple(product.inputs), tuple(reversed(product.inputs))):
        rows, weights = extents(x), extents(m)
        if x is None or m is None or rows is None or weights is None or min(len(rows), len(weights)) < 2:
            continue
        if weights[-1] == 1 and rows[-2] == weights[-2] and rows[-2] is not None:
            return x, m
    return "neither factor is known to be one weight for each row of the other"
