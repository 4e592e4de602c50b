"""Whether a value may be left narrower than it is, because all that read it broadcast it.

    Add(x, Expand(m, shape)) = Add(x, m)        x: [b, s, k], m: [b, 1, 1] or [k], expanded to [b, s, k]

What reads it may become narrower in turn, up to where another operand has the size that is gone. Sizes are compared by
number and by name, so what holds, holds for every input.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from dlc.passes.extents import Extents, extents
from dlc.passes.name_sizes import BROADCAST, broadcast

UNARY = frozenset({
    "Abs", "Cast", "Ceil", "Cos", "Erf", "Exp", "Floor", "Gelu", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log",
    "Neg", "Not", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sqrt", "Tanh",
})  # fmt: skip
"""Operators on one operand, element by element."""
MOST = 16
"""Values that may become narrower with one."""


def narrowed(value: ir.Value, shape: Extents | None) -> Mapping[ir.Value, Extents] | None:
    """Return what becomes narrower, ``value`` included, where it has another shape of the same numbers.

    ``shape`` must broadcast to that of the value. None: some reader would compute another result, or may.
    """
    if shape is None or None in shape or value.is_graph_output():
        return None
    new: dict[ir.Value | None, Extents] = {value: shape}
    pending = [value]
    while pending and len(new) <= MOST:
        for node in [use.node for use in pending.pop().uses()]:
            if node.domain != "" or node.op_type not in BROADCAST | UNARY:
                return None
            before = broadcast([extents(v) for v in node.inputs])
            after = broadcast([new[v] if v in new else extents(v) for v in node.inputs])
            y = node.outputs[0]
            if before is None or after is None or None in before or None in after:
                return None
            if after == new.get(y, before):
                continue
            if y.is_graph_output():
                return None
            new[y] = after
            pending.append(y)
    return None if pending else {v: s for v, s in new.items() if v is not None}


def narrow(found: Mapping[ir.Value, Extents]) -> None:
    """Write down the shapes of what became narrower."""
    for value, shape in found.items():
        value.shape = ir.Shape(shape)
