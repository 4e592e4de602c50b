"""An integer product, its scales and its bias become one operator.

    y = float(MatMulInteger(q, W, zq, zw)) * (sq * sw) + b      MatMulIntegerToFloat(q, W, sq, sw, zq, zw, b)
    q, sq, zq = DynamicQuantizeLinear(x)                        DynamicQuantizeMatMul(x, W, sw, zw, b)

MatMulInteger-10, DynamicQuantizeLinear-11; com.microsoft, version 1.  q: [..., K] u8;  W: [K, N];  sw, zw: [] or [N];
b: [N].  This is what ``onnxruntime.quantization.quantize_dynamic`` writes. ONNX Runtime fuses it likewise when it loads
the file, where its optimisations are on; written out, the graph needs them no more, and other rewrites see the product.

The sums are integers and the same. Then both forms round three times: the product of the scales, its product with the
sum, the bias added. ONNX Runtime 1.32 does so on x86 without fused multiply-add: equal bit by bit. A kernel that fuses
the last two rounds once less, by eps/2 of the product.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import onnx_ir as ir

from dlc.passes.base import constant, only_user
from dlc.passes.edit import Edit
from dlc.passes.rewrite import Rewrite
from dlc.types import Array

MICROSOFT = "com.microsoft"
PRODUCTS = {"MatMulInteger": "", "MatMulIntegerToFloat": MICROSOFT}


@dataclass(frozen=True)
class FuseIntegerMatMul(Rewrite):
    """MatMulInteger, Cast, Mul and Add become MatMulIntegerToFloat or DynamicQuantizeMatMul.

    ``inside``: quantize the activation inside the operator, where nothing else reads it quantized. Not applied if the
    weight, its scale or its zero point is not constant, if they are of other sizes than one or one a column, if the
    product is not scaled to FLOAT, or if a value in between has another reader or is a graph output. Sites are the
    integer products.
    """

    name: ClassVar[str] = "fuse-integer-matmul"
    inside: bool = False

    def alternatives(self) -> tuple[Self, ...]:
        """Return both operators; the one whose quantization can be shared first."""
        return tuple(replace(self, inside=inside) for inside in (False, True))

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return the integer products."""
        return (n for n in graph if PRODUCTS.get(n.op_type) == n.domain)

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Fuse what follows one product, and what quantizes its activation."""
        found = _scaled(node) if node.op_type == "MatMulInteger" else _fused(node)
        if isinstance(found, str):
            return found
        if not self.inside and found.last is node:
            return "already fused"
        quantize = _quantization(found) if self.inside else None
        if isinstance(quantize, str):
            return quantize
        y = found.last.outputs[0]
        inputs = [found.x, found.weight, found.x_scale, found.scale, found.x_zero, found.zero, found.bias]
        op = "MatMulIntegerToFloat"
        if quantize is not None:
            op, inputs = (
                "DynamicQuantizeMatMul",
                [quantize.inputs[0], found.weight, found.scale, found.zero, found.bias],
            )
        while inputs[-1] is None:
            inputs.pop()
        product = edit.node(op, inputs, f"{found.last.name}.{op}", dtype=y.dtype, shape=y.shape, domain=MICROSOFT)
        if quantize is None and (producer := _made_by(found.x, "DynamicQuantizeLinear")) is not None:
            edit.context(producer)
        edit.require(MICROSOFT)
        edit.replace(found.last, product)
        return None


@dataclass(frozen=True, slots=True)
class _Product:
    """What a fused operator needs. ``last``: the node whose output it gives; ``scaling``: what reads the scale of x."""

    x: ir.Value
    weight: ir.Value
    x_scale: ir.Value
    scale: ir.Value
    x_zero: ir.Value | None
    zero: ir.Value | None
    bias: ir.Value | None
    first: ir.Node
    scaling: ir.Node
    last: ir.Node


BETWEEN = "a value in between has another reader or is a graph output"


def _scaled(node: ir.Node) -> _Product | str:  # noqa: PLR0911 - one return a guard
    """Match the product in standard operators."""
    x, weight, x_zero, zero = (*node.inputs, None, None)[:4]
    assert x is not None
    assert weight is not None
    if (cast := only_user(node.outputs[0])) is None:
        return BETWEEN
    if cast.op_type != "Cast" or cast.attributes.get_int("to", 0) != ir.DataType.FLOAT:
        return "the product is not cast to FLOAT"
    if (multiply := only_user(cast.outputs[0])) is None:
        return BETWEEN
    factor = _other(multiply, cast.outputs[0]) if _is(multiply, "Mul") else None
    scales = _made_by(factor, "Mul")
    if scales is None or scales.graph is not node.graph:
        return "the product is not scaled by a product of two scales"
    a, b = scales.inputs
    if constant(b) is None:
        a, b = b, a
    if a is None or b is None or constant(b) is None:
        return "no scale of the weight is constant"
    if not _one(a):
        return "the scale of the activation is not one number"
    if x.dtype not in (None, ir.DataType.UINT8) or (x_zero is not None and not _one(x_zero)):
        return "the activation is not quantized to UINT8 with one zero point"
    if reason := _unfit(weight, b, zero):
        return reason
    found = _Product(x, weight, a, b, x_zero, zero, None, node, scales, multiply)
    return _with_bias(found)


def _with_bias(found: _Product) -> _Product:
    """Take along a bias for each column that alone reads the product."""
    y = found.last.outputs[0]
    add = only_user(y)
    if add is None or not _is(add, "Add"):
        return found
    other, weight = _other(add, y), constant(found.weight)
    bias = constant(other)
    if other is None or bias is None or weight is None or bias.shape != (weight.shape[1],):
        return found
    return replace(found, bias=other, last=add)


def _fused(node: ir.Node) -> _Product | str:
    """Read the product as one operator."""
    x, weight, x_scale, scale, x_zero, zero, bias = (*node.inputs, *[None] * 7)[:7]
    assert x is not None
    assert weight is not None
    assert x_scale is not None
    assert scale is not None
    if reason := _unfit(weight, scale, zero):
        return reason
    if bias is not None and constant(bias) is None:
        return "the bias is not constant"
    return _Product(x, weight, x_scale, scale, x_zero, zero, bias, node, node, node)


def _unfit(weight: ir.Value, scale: ir.Value, zero: ir.Value | None) -> str | None:
    """Say why a kernel that takes constants would not take these."""
    array = constant(weight)
    if array is None or array.ndim != 2:
        return "the weight is not a constant matrix"
    if not _per_column(constant(scale), array.shape[1]):
        return "the scale is not one constant, or one a column"
    if zero is not None and not _per_column(constant(zero), array.shape[1]):
        return "the zero point is not one constant, or one a column"
    return None


def _quantization(found: _Product) -> ir.Node | str:
    """Return the DynamicQuantizeLinear that only this product reads."""
    node = _made_by(found.x, "DynamicQuantizeLinear")
    if node is None or [found.x, found.x_scale, found.x_zero] != list(node.outputs):
        return "the activation is not quantized by a DynamicQuantizeLinear of its own"
    if node.graph is not found.first.graph:
        return "the activation is quantized in another graph"
    inside = (found.first, found.scaling)
    if any(v.is_graph_output() or any(u.node not in inside for u in v.uses()) for v in node.outputs):
        return "the quantized activation has another reader or is a graph output"
    if found.scaling is not found.first and only_user(found.scaling.outputs[0]) is None:
        return BETWEEN
    return node


def _per_column(array: Array | None, columns: int) -> bool:
    return array is not None and (array.shape == (columns,) or (array.size == 1 and array.ndim <= 1))


def _one(value: ir.Value) -> bool:
    """Whether a value is known to hold one number: of rank 0, [1], or what DynamicQuantizeLinear writes."""
    if _made_by(value, "DynamicQuantizeLinear") is not None:
        return True
    return value.shape is not None and tuple(value.shape) in ((), (1,))


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """Return the other of two operands."""
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]


def _is(node: ir.Node, op_type: str) -> bool:
    return node.op_type == op_type and node.domain == ""


def _made_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and _is(node, op_type) else None
