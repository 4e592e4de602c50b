"""Between which numbers the elements of a value lie, proven from the graph alone.

    Range(0, n, 1) >= 0 is true;  Shape(x) >= 0;  Expand, Slice, Gather of zeros are zeros;  true and m is m

Unlike ``dlc.passes.ranges``, which asks what a mask can hold and takes products for finite, nothing is assumed here.
Floating-point numbers are compared and chosen, never computed with; none in an interval is NaN or minus zero.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant, graphs
from dlc.passes.ranges import MOVING
from dlc.types import Array

Interval = tuple[float, float]
"""The least and the largest number, both possible; integers stay exact, and False and True are 0 and 1."""
Given = Sequence[Interval | None]
LARGEST = 1 << 16
"""Elements of the largest constant that is looked through."""
MANTISSA = {ir.DataType.FLOAT16: 11, ir.DataType.FLOAT: 24, ir.DataType.DOUBLE: 53}
"""Bits of the largest integers that a type holds without a gap."""
EITHER: Interval = (0, 1)
SIZES: Interval = (0, (1 << 63) - 1)


class Intervals:
    """What is known of the values of a model. It stays true of a value while the graph around it is rewritten."""

    def __init__(self, model: ir.Model) -> None:
        self._known: dict[ir.Value, Interval | None] = {}
        for graph in graphs(model.graph):  # the outer graph first: an inner one reads its values
            for node in graph:
                if (rule := RULES.get(node.op_type)) is not None and node.domain == "":
                    found = rule(node, [self.of(v) for v in node.inputs])
                    self._known.update(dict.fromkeys(node.outputs, found))

    def of(self, value: ir.Value | None) -> Interval | None:
        """Return the interval of a value, None if nothing is known; that of a value without elements is any."""
        if value is None:
            return None
        if value.const_value is not None and value not in self._known:
            self._known[value] = _of(value)
        found = self._known.get(value)
        return EITHER if found is None and value.dtype == ir.DataType.BOOL else found

    def number(self, value: ir.Value | None) -> Array | None:
        """Return the one number that every element of a value is, as a scalar; None if they differ or are unknown."""
        found = self.of(value)
        if value is None or found is None or found[0] != found[1] or value.dtype is None:
            return None
        return np.array(found[0], value.dtype.numpy())


def _of(value: ir.Value) -> Interval | None:
    tensor = value.const_value
    if tensor is None or not 0 < tensor.size <= LARGEST or (array := constant(value)) is None:
        return None
    if array.dtype.kind not in "biuf" or np.isnan(array).any() or (np.signbit(array) & (array == 0)).any():
        return None
    return array.min().item() + 0, array.max().item() + 0  # + 0: of booleans, a number


def _moved(_: ir.Node, given: Given) -> Interval | None:
    return given[0]


def _union(given: Given) -> Interval | None:
    known = [g for g in given if g is not None]
    return (min(g[0] for g in known), max(g[1] for g in known)) if known and len(known) == len(given) else None


def _limits(dtype: ir.DataType) -> Interval:
    """Return the least and the largest integer of a type."""
    bits = dtype.bitwidth - dtype.is_signed()
    return -(1 << bits) if dtype.is_signed() else 0, (1 << bits) - 1


def _fitting(found: Interval, dtype: ir.DataType | None) -> Interval | None:
    """Return an interval of integers that a type holds: one that it does not may wrap around."""
    if dtype is None or not dtype.is_integer():
        return None
    least, most = _limits(dtype)
    return found if least <= found[0] and found[1] <= most else None


def _cast(node: ir.Node, given: Given) -> Interval | None:
    x, found = node.inputs[0], given[0]
    if x is None or x.dtype is None or found is None or not (x.dtype.is_integer() or x.dtype == ir.DataType.BOOL):
        return None
    to = ir.DataType(node.attributes.get_int("to", 0))
    if to == ir.DataType.BOOL:
        return int(not found[0] <= 0 <= found[1]), int(found != (0, 0))
    if to in MANTISSA:
        return found if max(map(abs, found)) <= 1 << MANTISSA[to] else None
    return _fitting(found, to)


def _filled(node: ir.Node, _: Given) -> Interval | None:
    given = node.attributes.get_tensor("value", None)
    if given is None:
        return 0, 0
    number = given.numpy().reshape(-1)[:1]
    return _of(ir.Value(name="", const_value=ir.Tensor(number)))


def _range(node: ir.Node, given: Given) -> Interval | None:
    """Count up from the start, and never reach the limit."""
    start, limit, step = given
    dtype = node.outputs[0].dtype
    if start is None or step is None or step[0] <= 0 or dtype is None or not dtype.is_integer():
        return None
    most = _limits(dtype)[1] if limit is None else limit[1] - 1
    return start[0], max(start[0], most)


def _arithmetic(operation: Callable[[float, float], float]) -> Callable[[ir.Node, Given], Interval | None]:
    """Return the rule of an operator on integers that is largest and least where its operands are."""

    def rule(node: ir.Node, given: Given) -> Interval | None:
        a, b = given
        if a is None or b is None or (dtype := node.outputs[0].dtype) is None or not dtype.is_integer():
            return None
        corners = [operation(x, y) for x in a for y in b]
        return _fitting((min(corners), max(corners)), dtype)

    return rule


def _judged(certain: Callable[[Interval, Interval], bool], possible: Callable[[Interval, Interval], bool]) -> Callable[
    [ir.Node, Given], Interval | None
]:  # fmt: skip
    """Return the rule of a comparison: when it holds of all elements, and when it may hold of one."""

    def rule(_: ir.Node, given: Given) -> Interval | None:
        a, b = given
        return None if a is None or b is None else (int(certain(a, b)), int(possible(a, b)))

    return rule


def _each(choose: Callable[..., float]) -> Callable[[ir.Node, Given], Interval | None]:
    """Return the rule of an operator whose ends are chosen from those of its operands: min, max."""

    def rule(_: ir.Node, given: Given) -> Interval | None:
        known = [g for g in given if g is not None]
        if len(known) < len(given):
            return None
        return choose(g[0] for g in known), choose(g[1] for g in known)

    return rule


def _not(_: ir.Node, given: Given) -> Interval | None:
    x = given[0]
    return None if x is None else (1 - x[1], 1 - x[0])


def _where(_: ir.Node, given: Given) -> Interval | None:
    condition, yes, no = given
    if condition is not None and condition[0] == condition[1]:
        return yes if condition[0] else no
    return _union([yes, no])


RULES: dict[str, Callable[[ir.Node, Given], Interval | None]] = {
    **dict.fromkeys(MOVING, _moved), "GatherND": _moved, "Concat": lambda _, given: _union(given),
    "Cast": _cast, "ConstantOfShape": _filled, "Range": _range, "Where": _where, "Not": _not,
    "Shape": lambda _node, _given: SIZES, "Size": lambda _node, _given: SIZES,
    "Add": _arithmetic(operator.add), "Sub": _arithmetic(operator.sub), "Mul": _arithmetic(operator.mul),
    "And": _each(min), "Or": _each(max), "Min": _each(min), "Max": _each(max),
    "Greater": _judged(lambda a, b: a[0] > b[1], lambda a, b: a[1] > b[0]),
    "GreaterOrEqual": _judged(lambda a, b: a[0] >= b[1], lambda a, b: a[1] >= b[0]),
    "Less": _judged(lambda a, b: a[1] < b[0], lambda a, b: a[0] < b[1]),
    "LessOrEqual": _judged(lambda a, b: a[1] <= b[0], lambda a, b: a[0] <= b[1]),
    "Equal": _judged(lambda a, b: a == b and a[0] == a[1], lambda a, b: a[0] <= b[1] and b[0] <= a[1]),
}  # fmt: skip
