"""A residual sum stays apart from the layer normalisation after it.

    z = x + r;  y = LayerNormalization(z)        Add-14 becomes Sum-13, with the same numbers

At load ONNX Runtime fuses Add and LayerNormalization into SkipLayerNormalization, whose CPU kernel is slower than the
two: 85 µs in place of 24 at 32x384, 302 in place of 60 at 128x384 (ONNX Runtime 1.32, AVX2, one thread). It does not
look for Sum.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from dlc.passes.base import constant
from dlc.passes.edit import Edit
from dlc.passes.rewrite import Rewrite


@dataclass(frozen=True)
class SplitResidual(Rewrite):
    """The Add of two computed values, read by a LayerNormalization, becomes a Sum.

    Not applied if an operand is constant (a bias, no residual), or in another type than FLOAT: there is nothing to
    keep apart then.
    """

    name: ClassVar[str] = "split-residual"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return the sums that a LayerNormalization reads."""
        return (n for n in graph if n.op_type == "Add" and n.domain == "" and _norm(n) is not None)

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Write one sum with the other operator."""
        norm, y = _norm(node), node.outputs[0]
        assert norm is not None
        gamma = norm.inputs[1]  # of one type with the sum
        if any(constant(v) is not None for v in node.inputs):
            return "an operand is constant: a bias, no residual"
        if gamma is None or gamma.dtype != ir.DataType.FLOAT:
            return f"dtype is {gamma.dtype.name if gamma and gamma.dtype else 'unknown'}, not FLOAT"
        edit.replace(node, edit.node("Sum", list(node.inputs), f"{node.name}.sum", dtype=y.dtype, shape=y.shape))
        edit.context(norm)
        return None


def _norm(add: ir.Node) -> ir.Node | None:
    """Return the first LayerNormalization that normalises the sum."""
    readers = (u.node for u in add.outputs[0].uses() if u.idx == 0)
    return next(
        (n for n in readers if n.op_type == "LayerNormalization" and n.domain == "" and n.graph is add.graph), None
    )
