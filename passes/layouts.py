"""Which operators compute the same in another order of axes, and how they are written there.

With y = Transpose(x, p), axis a of y is axis p[a] of x. An operator f between transposed values, f(y) =
Transpose(f'(x), p), becomes f' by mapping each axis that it names: an attribute, a constant list, amounts per axis.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant
from dlc.passes.edit import Edit
from dlc.types import Array

Order = tuple[int, ...]

ELEMENTWISE = frozenset((
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "Cast", "Ceil", "Celu", "Clip", "Cos",
    "Cosh", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid",
    "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish",
    "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin",
    "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
))  # fmt: skip
"""Operators without axes; operands broadcast."""
ONE_AXIS = ("Concat", "LogSoftmax", "Softmax", "Split")
REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
    "ReduceSumSquare",
)  # fmt: skip
DATA_ONLY = ("Pad", "Slice", "Split", *REDUCTIONS)
"""Operators whose other operands are no data."""


def order(node: ir.Node) -> Order | None:
    """Return what a Transpose does with the axes, None if the rank is unknown."""
    if (given := node.attributes.get_ints("perm", None)) is not None:
        return tuple(int(a) for a in given)
    x = node.inputs[0]
    return None if x is None or x.shape is None else tuple(reversed(range(len(x.shape))))


def inverse(p: Order) -> Order:
    """Return what undoes ``p``."""
    return tuple(int(i) for i in np.argsort(p))


def after(p: Order, q: Order) -> Order:
    """Return what ``p`` and then ``q`` do together."""
    return tuple(p[a] for a in q)


def flowing(node: ir.Node) -> list[int]:
    """Return which operands are data in the order of axes; the others are amounts, axes and limits."""
    if node.op_type in DATA_ONLY or node.op_type == "Clip":
        return [0]
    return [i for i, v in enumerate(node.inputs) if v is not None]


def follows(node: ir.Node, rank: int, known: Container[ir.Value]) -> bool:
    """Whether a node computes the same in any order of axes, on operands of this rank or constants that broadcast.

    ``known``: values of which the rank is known to be this, whatever the graph states.
    """
    if node.domain != "" or not (node.op_type in ELEMENTWISE or node.op_type in AXES):
        return False
    if node.op_type in AXES and AXES[node.op_type](node, rank) is None:
        return False
    for i in flowing(node):
        value = node.inputs[i]
        assert value is not None
        if (array := constant(value)) is not None:
            if array.ndim > rank or (node.op_type in ONE_AXIS and array.ndim != rank):
                return False
        elif value not in known and (value.shape is None or len(value.shape) != rank):
            return False
    return True


@dataclass(frozen=True, slots=True)
class Mapped:
    """Attributes and constant operands, by place, that name axes; as they read in the order of ``x``."""

    attributes: dict[str, int | list[int]]
    operands: dict[int, Array]


def mapped(node: ir.Node, p: Order) -> Mapped:
    """Return what changes in a node between transposed values when they are left untransposed."""
    if node.op_type in AXES and (named := AXES[node.op_type](node, len(p))) is not None:
        return named(p)
    return Mapped({}, {})


def reordered(value: ir.Value, p: Order, edit: Edit) -> ir.Value:
    """Return a constant in the order of ``x``: one of lower rank gets leading axes first, a single number stays."""
    array = constant(value)
    assert array is not None
    if array.ndim == 0 or array.shape == (1,):
        return value
    full = array.reshape([1] * (len(p) - array.ndim) + list(array.shape)).transpose(inverse(p))
    return edit.once(("reordered", value, p), lambda: edit.constant(f"{value.name}.reordered", full, value.dtype))


_Named = Callable[[Order], Mapped]


def _one_axis(node: ir.Node, rank: int) -> _Named | None:
    axis = node.attributes.get_int("axis", 0 if node.op_type == "Split" else -1)
    return lambda p: Mapped({"axis": p[axis % rank]}, {})


def _axes(node: ir.Node, rank: int) -> _Named | None:
    """Reductions that keep their axes; those that name none reduce all."""
    if node.attributes.get_int("keepdims", 1) == 0:
        return None
    if (given := node.attributes.get_ints("axes", None)) is not None:
        return lambda p: Mapped({"axes": [p[a % rank] for a in given]}, {})
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return lambda _: Mapped({}, {})
    array = constant(node.inputs[1])
    return None if array is None else lambda p: Mapped({}, {1: _renamed(array, p)})


def _amounts(node: ir.Node, rank: int) -> _Named | None:
    """Pad: constant amounts, for all axes or for those named."""
    array = constant(node.inputs[1])
    if array is None:
        return None
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        axes = constant(node.inputs[3])
        return None if axes is None else lambda p: Mapped({}, {3: _renamed(axes, p)})
    return lambda p: Mapped({}, {1: array.reshape(2, rank)[:, list(inverse(p))].reshape(-1)})


def _sliced(node: ir.Node, _: int) -> _Named | None:
    """Slice: constant axes, or the first ones where none are named."""
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        array = constant(node.inputs[3])
        return None if array is None else lambda p: Mapped({}, {3: _renamed(array, p)})
    starts = constant(node.inputs[1])
    return None if starts is None else lambda p: Mapped({}, {3: np.array(p[: starts.size], dtype=np.int64)})


def _renamed(axes: Array, p: Sequence[int]) -> Array:
    return np.array([p[int(a) % len(p)] for a in axes.reshape(-1)], dtype=axes.dtype)


AXES: dict[str, Callable[[ir.Node, int], _Named | None]] = {
    **dict.fromkeys(ONE_AXIS, _one_axis), **dict.fromkeys(REDUCTIONS, _axes), "Pad": _amounts, "Slice": _sliced,
}  # fmt: skip
"""Operators that name axes. None: in a way that cannot be mapped."""
