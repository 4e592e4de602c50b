"""Which node carries which weight: the one definition behind the counts of every precision."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from dlc.passes.base import all_nodes

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)

QUANTIZED = ("DequantizeLinear", "DynamicQuantizeLSTM", "GatherBlockQuantized", "MatMulNBits", "QuantizeLinear")
"""Operators whose floating-point operands are scales."""


def is_weight(value: ir.Value | None) -> bool:
    """Whether a value is a floating-point initializer of rank 2 or more; biases, scales and scalars are no weights."""
    return (
        value is not None
        and value.is_initializer()
        and not value.is_graph_input()
        and value.const_value is not None
        and value.const_value.dtype in FLOATS
        and len(value.const_value.shape) >= 2
        and value.const_value.size > 1
    )


def weights_of(node: ir.Node) -> dict[int, ir.Value]:
    """Input index to weight."""
    if node.op_type in QUANTIZED:
        return {}
    return {i: v for i, v in enumerate(node.inputs) if v is not None and is_weight(v)}


def weighted_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Nodes that read a weight, in graph order; those of subgraphs (If, Loop, Scan) follow the node that holds them."""
    return (n for n in all_nodes(graph) if weights_of(n))


def label(node: ir.Node) -> str:
    """Name a node in a report."""
    return node.name or f"{node.op_type}({', '.join(str(v.name) for v in node.outputs)})"
