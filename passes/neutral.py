"""Arithmetic that changes nothing: ``x + 0``, ``x - 0``, ``x * 1``, ``x / 1`` become Identity.

The constant must be exactly 0 or 1: an epsilon of 1e-12 is no 0, and a LayerNorm without it divides by zero.
"""

from __future__ import annotations

import onnx_ir as ir

from dlc.passes.base import constant
from dlc.passes.replace import take_over

NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}
COMMUTATIVE = ("Add", "Mul")


def drop_neutral(graph: ir.Graph) -> None:
    """Replace each such node by Identity, under its name."""
    for node in list(graph):
        if (kept := _kept_operand(node)) is not None:
            identity = ir.node("Identity", [kept], name=node.name)
            graph.insert_before(node, identity)
            take_over(node, identity)


def _kept_operand(node: ir.Node) -> ir.Value | None:
    if node.domain or node.op_type not in NEUTRAL or len(node.inputs) != 2:
        return None
    x, y = node.inputs
    if x is None or y is None:
        return None
    if _is_neutral(y, NEUTRAL[node.op_type], x):
        return x
    return y if node.op_type in COMMUTATIVE and _is_neutral(x, NEUTRAL[node.op_type], y) else None


def _is_neutral(value: ir.Value, neutral: int, other: ir.Value) -> bool:
    array = constant(value)
    if array is None or array.size != 1 or array.reshape(()) != neutral:
        return False
    return array.ndim <= (len(other.shape) if other.shape is not None else 0)
