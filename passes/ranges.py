"""Between which numbers a mask lies, whatever the inputs are.

A Softmax gives NaN where a row is all minus infinity. Whether that can be is a question of the mask: products are taken
to be finite and far from the largest number, as activations are wherever a guard does nothing but guard.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant

Range = tuple[float, float]
LARGEST = float(np.finfo(np.float32).max)
MOVING = frozenset({
    "Expand", "Flatten", "Gather", "GatherElements", "Identity", "Reshape", "Slice", "Split", "Squeeze",
    "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators that move numbers, or leave some out."""
PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})


def finite(value: ir.Value | None) -> bool:
    """Whether a mask, or the sum of a mask and a product, is finite whatever the inputs are."""
    found = between(value)
    return found is not None and found[0] >= -LARGEST and found[1] <= LARGEST


def between(value: ir.Value | None) -> Range | None:
    """Return the least and the largest number that a value can hold; a product is taken for 0. None: unknown."""
    if value is None:
        return None
    if (array := constant(value)) is not None:
        return _of(array.astype(np.float64))
    node = value.producer()
    rule = RULES.get((node.domain, node.op_type)) if node is not None else None
    return None if node is None or rule is None else rule(node)


def _of(array: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Range | None:
    if array.size == 0:
        return 0.0, 0.0
    found = float(array.min()), float(array.max())
    return None if np.isnan(found).any() else found


def _union(ranges: list[Range | None]) -> Range | None:
    known = [r for r in ranges if r is not None]
    return (min(r[0] for r in known), max(r[1] for r in known)) if len(known) == len(ranges) else None


def _moved(node: ir.Node) -> Range | None:
    return between(node.inputs[0])


def _product(_: ir.Node) -> Range:
    return 0.0, 0.0


def _filled(node: ir.Node) -> Range | None:
    given = node.attributes.get_tensor("value", None)
    return (0.0, 0.0) if given is None else _of(given.numpy().astype(np.float64))


def _cast(node: ir.Node) -> Range | None:
    """Casts to a type that holds all of FP32; a narrower one has its own largest number."""
    x = node.inputs[0]
    if node.attributes.get_int("to", 0) not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return None
    return (0.0, 1.0) if x is not None and x.dtype == ir.DataType.BOOL else between(x)


def _corners(operation: Callable[[float, float], float]) -> Callable[[ir.Node], Range | None]:
    """Return the rule of an operator that is largest and least where its operands are."""

    def rule(node: ir.Node) -> Range | None:
        a, b = (between(v) for v in node.inputs)
        if a is None or b is None:
            return None
        corners = [operation(x, y) for x in a for y in b]
        return None if np.isnan(corners).any() else (min(corners), max(corners))

    return rule


RULES: dict[tuple[str, str], Callable[[ir.Node], Range | None]] = {
    **{("", op): _moved for op in MOVING}, **{("", op): _product for op in PRODUCTS},
    ("com.microsoft", "FusedMatMul"): _product,
    ("", "Add"): _corners(operator.add), ("", "Sub"): _corners(operator.sub), ("", "Mul"): _corners(operator.mul),
    ("", "Cast"): _cast, ("", "ConstantOfShape"): _filled,
    ("", "Concat"): lambda node: _union([between(v) for v in node.inputs]),
    ("", "Where"): lambda node: _union([between(v) for v in node.inputs[1:]]),
}  # fmt: skip
