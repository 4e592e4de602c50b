"""An integer product whose columns are split apart becomes one product for each part.

    split(q [W1 W2 W3] * s [s1 s2 s3] + [b1 b2 b3])  =  q W1 * s s1 + b1, q W2 * s s2 + b2, q W3 * s s3 + b3

com.microsoft MatMulIntegerToFloat, version 1; Split-13.  q: [..., K] u8;  Wi: [K, Ni];  si, bi: [Ni].  Each column is
computed from the same integers by the same operations: equal bit by bit.

In FP32 products of one input are faster packed. Quantized, they share their input as it is, and the Split copies what
the product has just written: with 384 rows a weight, three products of 384 columns take 0.99 to 1.00 of one of 1152 and
a Split at 8 rows, 0.94 to 0.97 at 32 (ONNX Runtime 1.32, AVX512-VNNI, one thread).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant, only_user
from dlc.passes.edit import Edit
from dlc.passes.rewrite import Rewrite
from dlc.types import Array

MICROSOFT = "com.microsoft"
WEIGHT, SCALE, ZERO, BIAS = 1, 3, 5, 6
"""Operands of MatMulIntegerToFloat that may have columns."""


@dataclass(frozen=True)
class UnpackIntegerProducts(Rewrite):
    """MatMulIntegerToFloat and a Split of its columns become one MatMulIntegerToFloat a part.

    Not applied if the product has another reader or is a graph output, if the Split is along another axis, if its sizes
    do not add up to the columns, or if weight, scale, zero point or bias is not constant. Sites are the Splits.
    """

    name: ClassVar[str] = "unpack-integer-products"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return each Split of an integer product."""
        return (n for n in graph if n.op_type == "Split" and n.domain == "" and _product(n) is not None)

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Multiply by each part of the columns."""
        product = _product(node)
        assert product is not None
        if only_user(product.outputs[0]) is not node:
            return "the product has another reader or is a graph output"
        operands = {i: v for i in (WEIGHT, SCALE, ZERO, BIAS) if i < len(product.inputs) and (v := product.inputs[i])}
        arrays = {i: array for i, v in operands.items() if (array := constant(v)) is not None}
        if len(arrays) != len(operands):
            return "weight, scale, zero point or bias is not constant"
        if arrays[WEIGHT].ndim != 2:
            return "the weight is not a matrix"
        if (ends := _ends(node, product, arrays[WEIGHT].shape[1])) is None:
            return "not split along the columns, into known sizes"
        for i, y in enumerate(node.outputs):
            start, end = ends[i], ends[i + 1]
            inputs = list(product.inputs)
            for at, array in arrays.items():
                if array.ndim and array.shape[-1] == ends[-1]:
                    part = np.ascontiguousarray(array[..., start:end])
                    inputs[at] = edit.constant(f"{operands[at].name}.{i}", part)
            one = edit.node("MatMulIntegerToFloat", inputs, f"{product.name}.{i}", dtype=y.dtype, shape=y.shape,
                            domain=MICROSOFT)  # fmt: skip
            edit.insert_before(node, one)
            edit.stand_in(y, one.outputs[0])
        edit.remove(node)
        return None


def _product(split: ir.Node) -> ir.Node | None:
    x = split.inputs[0]
    node = x.producer() if x is not None else None
    fused = node is not None and node.op_type == "MatMulIntegerToFloat" and node.domain == MICROSOFT
    return node if fused else None


def _ends(split: ir.Node, product: ir.Node, columns: int) -> list[int] | None:
    """Return where the parts begin and end, if they are columns of a product of known rank."""
    axis, x = split.attributes.get_int("axis", 0), product.inputs[0]
    if axis != -1 and (x is None or x.shape is None or axis != len(x.shape) - 1):
        return None
    sizes = _sizes(split, columns)
    if sizes is None or 0 in sizes or sum(sizes) != columns or len(sizes) != len(split.outputs):
        return None
    return [0, *np.cumsum(sizes).tolist()]


def _sizes(split: ir.Node, columns: int) -> list[int] | None:
    if len(split.inputs) > 1 and split.inputs[1] is not None:
        array: Array | None = constant(split.inputs[1])
        return None if array is None else [int(n) for n in array]
    if (given := split.attributes.get_ints("split", None)) is not None:
        return [int(n) for n in given]
    count = len(split.outputs)  # all of one size, the last smaller
    size = -(-columns // count)
    return [size] * (count - 1) + [columns - size * (count - 1)] if columns % count == 0 else None
