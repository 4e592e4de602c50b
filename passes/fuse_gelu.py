"""Gelu, written out, becomes one operator.

    y = 0.5 * x * (1 + erf(x / sqrt(2)))        Gelu-20, approximate="none"

The three factors may be multiplied in any order. The exact form only: the one with tanh is another function.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from dlc.passes.base import only_user, scalar
from dlc.passes.edit import Edit
from dlc.passes.factors import ROUNDING, scaled
from dlc.passes.rewrite import Rewrite

GELU = 20
"""First opset with the operator Gelu."""


@dataclass(frozen=True)
class FuseGelu(Rewrite):
    """``0.5 * x * (1 + erf(x / sqrt(2)))`` becomes Gelu.

    Not applied below opset 20, if the constants are others (1.4142 is not sqrt(2)), if a value in between has another
    reader or is a graph output. Sites are the Erf nodes, and the Gelu nodes that are there already.
    """

    name: ClassVar[str] = "fuse-gelu"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return each Erf and each Gelu."""
        return (n for n in graph if n.domain == "" and n.op_type in ("Erf", "Gelu"))

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Fuse around one Erf."""
        if node.op_type == "Gelu":
            return "already fused"
        if (opset := edit.model.graph.opset_imports.get("", 1)) < GELU:
            return f"opset {opset} has no Gelu; it came with {GELU}"
        if isinstance(found := _match(node), str):
            return found
        x, last = found
        y = last.outputs[0]
        edit.replace(last, edit.node("Gelu", [x], f"{last.name}.gelu", dtype=y.dtype, shape=y.shape))
        return None


def _match(erf: ir.Node) -> tuple[ir.Value, ir.Node] | str:
    """Return x and the node that completes the product, or say why there is none."""
    scale, x = scaled(erf.inputs[0])
    if x is None or abs(scale * math.sqrt(2) - 1) > ROUNDING:
        return "the argument of erf is not x / sqrt(2)"
    if x.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return f"dtype is {x.dtype.name if x.dtype else 'unknown'}, not FLOAT or FLOAT16"
    plus = only_user(erf.outputs[0])
    if plus is None:
        return "erf has another reader or is a graph output"
    if plus.op_type != "Add" or 1.0 not in [scalar(v) for v in plus.inputs]:
        return "1 is not added to erf"
    last = _product(plus, x)
    return last if isinstance(last, str) else (x, last)


def _product(plus: ir.Node, x: ir.Value) -> ir.Node | str:
    """Return the node that completes ``0.5 * x * plus``, following the products from ``plus`` on."""
    value, factor, times_x, last = plus.outputs[0], 1.0, 0, None
    while factor * 2 != 1.0 or times_x != 1:
        node = only_user(value)
        if node is None:
            return "another reader, or a graph output, before 0.5 * x * (1 + erf) is complete"
        if node.op_type not in ("Mul", "Div") or (node.op_type == "Div" and node.inputs[0] is not value):
            return "1 + erf is not multiplied with x / 2"
        other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
        constant = scalar(other)
        if constant is not None:
            factor = factor * constant if node.op_type == "Mul" else factor / constant if constant else 0.0
        else:
            scale, base = (1.0, x) if other is x else scaled(other)
            if base is not x or node.op_type == "Div" or times_x:
                return "1 + erf is not multiplied with x / 2"
            factor, times_x = factor * scale, 1
        value, last = node.outputs[0], node
    assert last is not None
    return last
