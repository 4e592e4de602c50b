"""Arithmetic and traffic of a graph's nodes at known shapes.

Multiply-adds are counted of products, convolutions, recurrent cells and attention, in float and in integers; every
other operator counts none. Causal attention counts in full, and so do channels that a blocked layout pads. Traffic is
every operand read and every result written once, wherever it then came from; a view moves nothing, and what is
gathered or sliced reads no more than it writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import onnx_ir as ir

from dlc.passes.concrete_shapes import Shape
from dlc.types import Bytes

Shapes = Mapping[str, Shape]

CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "NhwcFusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}
PRODUCTS = {
    "Gemm": 1, "FusedGemm": 1, "QGemm": 3, "MatMul": 1, "FusedMatMul": 1, "MatMulInteger": 1, "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1, "QLinearMatMul": 3,
}  # fmt: skip
"""Which input is the second operand."""
RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
INTEGER = (
    "ConvInteger", "QLinearConv", "QGemm", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "QLinearMatMul", "QAttention", "DynamicQuantizeLSTM",
)  # fmt: skip
VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Size", "Constant")
PICKS = ("Gather", "GatherElements", "GatherND", "Slice")


def macs(node: ir.Node, shapes: Shapes) -> int | None:
    """Multiply-adds at these shapes; 0 for what has none, None where a shape that counts is unknown."""
    if (count := _COUNTS.get(node.op_type)) is None:
        return 0
    try:
        return count(node, shapes)
    except KeyError:
        return None


def is_integer(node: ir.Node) -> bool:
    """Whether a node multiplies integers; MatMulNBits does from accuracy level 4, where it rounds activations."""
    if node.op_type == "MatMulNBits":
        return node.attributes.get_int("accuracy_level", 0) == 4
    return node.op_type in INTEGER


def traffic(node: ir.Node, size: Callable[[ir.Value], Bytes | None]) -> Bytes | None:
    """Bytes read and written; ``size``: of one value, None where that is unknown."""
    if node.op_type in VIEWS and not node.domain:
        return 0
    written = [size(v) for v in node.outputs if v.name]
    read = [size(v) for v in node.inputs if v is not None and v.name]
    if node.op_type in PICKS and not node.domain and written:
        read = [*written, *read[1:]]
    total = 0
    for each in (*read, *written):
        if each is None:
            return None
        total += each
    return total


def _shape(value: ir.Value | None, shapes: Shapes) -> Shape:
    """Return a shape; KeyError where it is unknown."""
    return shapes[str(value.name) if value is not None else ""]


def _convolution(node: ir.Node, shapes: Shapes) -> int:
    weight = _shape(node.inputs[CONVOLUTIONS[node.op_type]], shapes)  # [M, C/g, *k]
    return math.prod(_shape(node.outputs[0], shapes)) * math.prod(weight[1:])


def _transposed(node: ir.Node, shapes: Shapes) -> int:
    weight = _shape(node.inputs[1], shapes)  # [C, M/g, *k]
    return math.prod(_shape(node.inputs[0], shapes)) * math.prod(weight[1:])


def _product(node: ir.Node, shapes: Shapes) -> int:
    right = _shape(node.inputs[PRODUCTS[node.op_type]], shapes)
    transposed = node.attributes.get_int("transB", 0) == 1
    inner = right[-1] if transposed or len(right) == 1 else right[-2]
    return math.prod(_shape(node.outputs[0], shapes)) * inner


def _blocks(node: ir.Node, shapes: Shapes) -> int:
    return math.prod(_shape(node.outputs[0], shapes)) * node.attributes.get_int("K", 0)


def _recurrent(node: ir.Node, shapes: Shapes) -> int:
    steps, batch, _ = _shape(node.inputs[0], shapes)
    return steps * batch * sum(math.prod(_shape(node.inputs[i], shapes)) for i in (1, 2))  # W and R: [dirs, gH, I], …


def _packed_attention(node: ir.Node, shapes: Shapes) -> int:
    """com.microsoft.Attention and QAttention, which multiply by the weights of Q, K and V themselves."""
    batch, keys, features = _shape(node.inputs[0], shapes)
    out = math.prod(_shape(node.outputs[0], shapes))  # [B, S, D]
    return batch * keys * features * _shape(node.inputs[1], shapes)[-1] + 2 * out * keys


def _attention(node: ir.Node, shapes: Shapes) -> int:
    """Scores, and their products with the values: of Attention-23, MultiHeadAttention and GroupQueryAttention."""
    query, out = _shape(node.inputs[0], shapes), _shape(node.outputs[0], shapes)
    given = node.inputs[1] if len(node.inputs) > 1 else None
    kept = next((v for v in node.outputs[1:2] if v.name), None)  # the keys of all steps so far
    key = kept or given
    keys = query[1] if key is None else _shape(key, shapes)[-2]  # [B, T, D] or [B, H, T, d]
    scored = out if given is None else query  # packed, the query holds keys and values too
    return (math.prod(scored) + math.prod(out)) * keys


_COUNTS: Mapping[str, Callable[[ir.Node, Shapes], int]] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution), "ConvTranspose": _transposed, **dict.fromkeys(PRODUCTS, _product),
    "MatMulNBits": _blocks, **dict.fromkeys(RECURRENT, _recurrent), "QAttention": _packed_attention,
    "MultiHeadAttention": _attention, "GroupQueryAttention": _attention,
    "Attention": lambda node, shapes: (_packed_attention if node.domain else _attention)(node, shapes),
}  # fmt: skip
