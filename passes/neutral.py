"""What changes nothing becomes Identity: ``x + 0``, ``x * 1``, ``x and true``, a choice that is made; Reshape, Expand.

The operand must be exactly neutral: an epsilon of 1e-12 is no 0, and a LayerNorm without it divides by zero. An operand
or an Expand that only widens ``x`` goes as well where all readers widen it themselves (``dlc.passes.narrowing``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from dlc.passes.base import constant
from dlc.passes.extents import Extents, contents, extents, matches, reshaped
from dlc.passes.intervals import Intervals
from dlc.passes.name_sizes import broadcast
from dlc.passes.narrowing import narrow, narrowed
from dlc.passes.replace import take_over

NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1, "And": 1, "Or": 0}
COMMUTATIVE = ("Add", "Mul", "And", "Or")


def drop_neutral(graph: ir.Graph, known: Intervals) -> None:
    """Replace each such node by Identity, under its name."""
    for node in list(graph):
        for kept in _kept_operands(node, known) if node.domain == "" else ():
            if (found := _without(node, kept)) is not None:
                narrow(found)
                identity = ir.node("Identity", [kept], name=node.name)
                graph.insert_before(node, identity)
                take_over(node, identity)
                break


def _kept_operands(node: ir.Node, known: Intervals) -> Iterator[ir.Value]:
    """Yield the operands whose numbers the result holds, copied maybe."""
    if node.op_type == "Where":
        condition, yes, no = node.inputs
        made = known.of(condition)
        if yes is not None and no is not None and made is not None and made[0] == made[1]:
            yield yes if made[0] else no
    elif len(node.inputs) == 2 and (x := node.inputs[0]) is not None and (y := node.inputs[1]) is not None:
        if node.op_type in ("Reshape", "Expand"):
            yield x
        elif (neutral := NEUTRAL.get(node.op_type)) is not None:
            if known.of(y) == (neutral, neutral):
                yield x
            if node.op_type in COMMUTATIVE and known.of(x) == (neutral, neutral):
                yield y


def _without(node: ir.Node, kept: ir.Value) -> Mapping[ir.Value, Extents] | None:
    """Return what becomes narrower if an operand takes the place of the result, None if it cannot."""
    shape = extents(kept)
    if node.op_type == "Reshape":
        return {} if shape is not None and matches(reshaped(node), shape) else None
    if node.op_type == "Expand" and shape is not None and matches(contents(node.inputs[1]), shape):
        return {}
    others = [v for v in node.inputs if v is not kept]
    if node.op_type != "Expand" and all(_widens_nothing(v, kept) for v in others):
        return {}
    return narrowed(node.outputs[0], shape)


def _widens_nothing(value: ir.Value | None, other: ir.Value) -> bool:
    array, shape = constant(value), extents(other)
    if array is not None and array.size == 1:
        return array.ndim <= len(shape or ())
    return shape is not None and None not in shape and broadcast([extents(value), shape]) == shape
