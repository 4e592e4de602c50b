"""Finds what all normalisations share, as exporters write it: a value divided by the root of its mean square.

    z / sqrt(mean(z * z) + epsilon)        z = x, or x - mean(x)

The square is Pow or Mul, the root Sqrt or Pow, the quotient Div, or Mul by Reciprocal, Div or Pow. A mean that dropped
its axes may be reshaped to have them again, as the variance of today's exporter is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import onnx_ir as ir

from dlc.passes.base import only_user, scalar
from dlc.passes.extents import Extents, contents, extents, matches, reshaped

READER = "a value in between has another reader or is a graph output"
Fits = Callable[[tuple[int, ...], int], bool]
"""Whether axes, ascending, are those a normalisation is over, given the rank."""
ROOTS = {0.5: "Div", -0.5: "Mul"}
"""Exponents of a root, and the operator that divides by it."""


@dataclass(frozen=True, slots=True)
class MeanSquare:
    """``mean(squares) + epsilon``; ``restored``: the Reshape that gives the mean its axes again, if one has to."""

    add: ir.Node
    mean: ir.Node
    restored: ir.Node | None
    epsilon: float | None

    @property
    def nodes(self) -> list[ir.Node]:
        """The nodes that compute it from the squares."""
        return [n for n in (self.mean, self.restored, self.add) if n is not None]

    def axes(self, shape: Extents) -> tuple[int, ...] | None:
        """Axes of the mean, ascending, if they are constant and kept; ``shape``: that of the squares."""
        axes = reduced_axes(self.mean, len(shape))
        if axes is None or self.restored is None:
            return axes if self.mean.attributes.get_int("keepdims", 1) else None
        kept = [1 if i in axes else size for i, size in enumerate(shape)]
        return axes if matches(reshaped(self.restored), kept) else None


@dataclass(frozen=True, slots=True)
class Centred:
    """``x - mean(x)``."""

    x: ir.Value
    sub: ir.Node
    mean: ir.Node

    @property
    def nodes(self) -> list[ir.Node]:
        """The nodes that compute it."""
        return [self.mean, self.sub]

    def axes(self, rank: int) -> tuple[int, ...] | None:
        """Axes of the mean, ascending, if they are constant and kept."""
        return reduced_axes(self.mean, rank) if self.mean.attributes.get_int("keepdims", 1) else None

    def equals(self, other: Centred, rank: int) -> bool:
        """Whether another is the same difference; exporters compute it twice, with axes counted from either end."""
        return other.x is self.x and other.axes(rank) == self.axes(rank)


@dataclass(frozen=True, slots=True)
class Root:
    """A root or its inverse, made by ``nodes`` and read by ``divide`` alone. ``numerator``: what is divided by it."""

    nodes: list[ir.Node]
    divide: ir.Node
    numerator: ir.Value | None


def mean_square(root: ir.Node) -> MeanSquare | None:
    """Return what a square root is taken of, if that is a mean plus something."""
    if not (is_op(root, "Sqrt") or (is_op(root, "Pow") and scalar(root.inputs[1]) in ROOTS)):
        return None
    if (add := made_by(root.inputs[0], "Add")) is None:
        return None
    for i, epsilon in ((0, 1), (1, 0)):
        restored = made_by(add.inputs[i], "Reshape")
        mean = made_by(add.inputs[i] if restored is None else restored.inputs[0], "ReduceMean")
        if mean is not None:
            return MeanSquare(add, mean, restored, scalar(add.inputs[epsilon]))
    return None


def square(value: ir.Value | None) -> ir.Node | None:
    """Return the node that squares: Pow(z, 2) or Mul(z, z)."""
    if (power := made_by(value, "Pow")) is not None and scalar(power.inputs[1]) == 2.0:
        return power
    product = made_by(value, "Mul")
    return product if product is not None and product.inputs[0] is product.inputs[1] else None


def centred(value: ir.Value | None) -> Centred | None:
    """Return x - mean(x)."""
    sub = made_by(value, "Sub")
    mean = made_by(sub.inputs[1], "ReduceMean") if sub is not None else None
    x = mean.inputs[0] if mean is not None else None
    return None if sub is None or mean is None or x is None or sub.inputs[0] is not x else Centred(x, sub, mean)


@dataclass(frozen=True, slots=True)
class Standardised:
    """x less its mean, divided by its deviation; ``last`` is the node of the quotient, ``axes`` those of the means."""

    x: ir.Value
    shape: Extents
    axes: tuple[int, ...]
    epsilon: float
    last: ir.Node


def standardised(root: ir.Node, fits: Fits, which: str) -> Standardised | str:  # noqa: PLR0911 - one return a guard
    """Return the standardisation around a root, over axes that fit, or say why there is none."""
    variance = mean_square(root)
    if variance is not None and variance.epsilon is None:
        return "epsilon is not constant"
    squares = square(variance.mean.inputs[0]) if variance is not None else None
    difference = centred(squares.inputs[0]) if squares is not None else None
    if variance is None or variance.epsilon is None or squares is None or difference is None:
        return "what is averaged is not the square of x - mean(x)"
    x, shape = difference.x, extents(difference.x)
    if x.dtype != ir.DataType.FLOAT:
        return f"dtype is {x.dtype.name if x.dtype else 'unknown'}, not FLOAT"
    axes = difference.axes(len(shape)) if shape is not None else None
    if shape is None or axes is None or axes != variance.axes(shape) or not fits(axes, len(shape)):
        return f"the means are not over {which}, kept"
    if isinstance(by := divisor(root), str):
        return by
    divided = centred(by.numerator)
    if divided is None or not difference.equals(divided, len(shape)):
        return "the difference is not divided by the square root"
    if not confined({*difference.nodes, *divided.nodes, squares, *variance.nodes, *by.nodes}, by.divide):
        return READER
    return Standardised(x, shape, axes, variance.epsilon, by.divide)


def divisor(root: ir.Node) -> Root | str:
    """Follow a root, or its inverse, to what it divides; or say why there is no one reader."""
    value, nodes = root.outputs[0], [root]
    wanted = "Div" if root.op_type == "Sqrt" else ROOTS[scalar(root.inputs[1]) or 0.0]
    if (divide := only_user(value)) is None:
        return READER
    if wanted == "Div" and _inverts(divide, value):
        value, wanted = divide.outputs[0], "Mul"
        nodes.append(divide)
        if (divide := only_user(value)) is None:
            return READER
    divides = is_op(divide, wanted) and (wanted == "Mul" or divide.inputs[1] is value)
    return Root(nodes, divide, other(divide, value) if divides else None)


def _inverts(node: ir.Node, value: ir.Value) -> bool:
    if is_op(node, "Reciprocal"):
        return True
    return is_op(node, "Div") and node.inputs[1] is value and scalar(node.inputs[0]) == 1.0


def reduced_axes(mean: ir.Node, rank: int) -> tuple[int, ...] | None:
    """Axes of a reduction, ascending and not negative, None if they are not constant or not stated."""
    given = contents(mean.inputs[1]) if len(mean.inputs) > 1 else tuple(mean.attributes.get_ints("axes", ()))
    numbers = [a % rank for a in given or () if isinstance(a, int)]
    return tuple(sorted(numbers)) if given and len(numbers) == len(given) else None


def confined(nodes: Collection[ir.Node], last: ir.Node) -> bool:
    """Whether what nodes compute is read by themselves and by ``last`` alone, and is no graph output."""
    inside = {*nodes, last}
    values = [v for node in nodes for v in node.outputs]
    return not any(v.is_graph_output() for v in values) and all(u.node in inside for v in values for u in v.uses())


def other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """Return the operand of a node with two that is not ``value``."""
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]


def is_op(node: ir.Node, op_type: str) -> bool:
    """Whether a node is a standard operator."""
    return node.op_type == op_type and node.domain == ""


def made_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """Return the node that computes a value, if it is that standard operator."""
    node = value.producer() if value is not None else None
    return node if node is not None and is_op(node, op_type) else None
