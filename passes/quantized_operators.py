"""Operators that compute in few bits or carry values into them: the marks of a model that was quantized before."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from dlc.passes.base import all_nodes

QUANTIZED = frozenset((
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "QGemm",
    "MatMulInteger", "ConvInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM",
    "QAttention", "MatMulNBits", "MatMulBnb4", "GatherBlockQuantized",
))  # fmt: skip


def quantized_operators(model: ir.Model) -> dict[str, int]:
    """Count them by type, the most frequent first; subgraphs included."""
    counts = Counter(node.op_type for node in all_nodes(model.graph) if node.op_type in QUANTIZED)
    return dict(counts.most_common())
