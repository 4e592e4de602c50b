"""What changes nothing becomes Identity: ``x + 0``, ``x - 0``, ``x * 1``, ``x / 1``; Reshape, Expand to the shape of x.

The constant must be exactly 0 or 1: an epsilon of 1e-12 is no 0, and a LayerNorm without it divides by zero.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from dlc.passes.base import constant
from dlc.passes.extents import Extents, contents, extents, matches, reshaped
from dlc.passes.replace import take_over

NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}
SHAPING: dict[str, Callable[[ir.Node], Extents | None]] = {
    "Reshape": reshaped, "Expand": lambda node: contents(node.inputs[1])
}  # fmt: skip
COMMUTATIVE = ("Add", "Mul")


def drop_neutral(graph: ir.Graph) -> None:
    """Replace each such node by Identity, under its name."""
    for node in list(graph):
        if (kept := _kept_operand(node)) is not None:
            identity = ir.node("Identity", [kept], name=node.name)
            graph.insert_before(node, identity)
            take_over(node, identity)


def _kept_operand(node: ir.Node) -> ir.Value | None:
    if node.domain or len(node.inputs) != 2:
        return None
    x, y = node.inputs
    if x is None or y is None:
        return None
    if node.op_type in SHAPING:
        asked, shape = SHAPING[node.op_type](node), extents(x)
        return x if shape is not None and matches(asked, shape) else None
    if node.op_type not in NEUTRAL:
        return None
    if _is_neutral(y, NEUTRAL[node.op_type], x):
        return x
    return y if node.op_type in COMMUTATIVE and _is_neutral(x, NEUTRAL[node.op_type], y) else None


def _is_neutral(value: ir.Value, neutral: int, other: ir.Value) -> bool:
    array = constant(value)
    if array is None or array.size != 1 or array.reshape(()) != neutral:
        return False
    return array.ndim <= (len(other.shape) if other.shape is not None else 0)
