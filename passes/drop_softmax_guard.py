"""A guard against NaN probabilities is dropped where there can be none.

    where(isnan(softmax(x)), 0, softmax(x))  =  softmax(x)        if no row of x is all minus infinity

ONNX IsNaN-9, Where-9, Softmax-13.  x = scores + mask, as a rule. Softmax gives NaN for a row that is all minus infinity
or has NaN or plus infinity in it; scores are products, and taken to be finite as activations are. So the guard is dead
where the mask is finite, or there is none, or the recipe states that some key is visible to every query.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from dlc.passes.base import scalar
from dlc.passes.edit import Edit
from dlc.passes.ranges import finite
from dlc.passes.rewrite import Rewrite
from dlc.recipe import Invariant


@dataclass(frozen=True)
class DropSoftmaxGuard(Rewrite):
    """``Where(IsNaN(p), 0, p)`` becomes ``p``, the output of a Softmax without rows of minus infinity.

    ``invariants``: what the recipe states. Not applied if the mask may be infinite and nothing is stated, if what is
    guarded is not Softmax in FP32, or if an output would change its name. Sites are the Where nodes.
    """

    name: ClassVar[str] = "drop-softmax-guard"
    invariants: tuple[Invariant, ...] = ()

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return every Where on IsNaN."""
        return (n for n in graph if n.op_type == "Where" and n.domain == "" and _op(n.inputs[0]) == "IsNaN")

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Drop one guard."""
        condition, replacement, p = node.inputs
        isnan = condition.producer() if condition is not None else None
        if isnan is None or p is None or isnan.inputs[0] is not p or scalar(replacement) != 0.0:
            return "it does not put 0 in the place of NaN"
        softmax = p.producer()
        if softmax is None or _op(p) != "Softmax":
            return "what is guarded is no Softmax"
        if p.dtype != ir.DataType.FLOAT:
            return f"dtype is {p.dtype.name if p.dtype else 'unknown'}, not FLOAT"
        x = softmax.inputs[0]
        if not finite(x) and not ("some-key-visible" in self.invariants and _masked(x)):
            return "rows may be all minus infinity: the mask is not finite"
        return None if edit.bypass(node, p) else "an output would change its name"


def _masked(x: ir.Value | None) -> bool:
    """Whether a mask is added to finite scores, or chooses between them and a number."""
    node = x.producer() if x is not None else None
    return node is not None and _op(x) in ("Add", "Where") and any(map(finite, node.inputs[-2:]))


def _op(value: ir.Value | None) -> str | None:
    node = value.producer() if value is not None else None
    return node.op_type if node is not None and node.domain == "" else None
