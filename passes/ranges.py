"""Between which numbers a mask lies, whatever the inputs are.

A Softmax gives NaN where a row is all minus infinity. Whether that can be is a question of the mask: products are taken
to be finite and far from the largest number, as activations are wherever a guard does nothing but guard.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant

Range = tuple[float, float]
LARGEST = float(np.finfo(np.float32).max)
MOVING = frozenset({
    "Concat", "Expand", "Flatten", "Gather", "GatherElements", "Identity", "Reshape", "Slice", "Split", "Squeeze",
    "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators that move numbers, or leave some out."""
PRODUCTS = frozenset({"Conv", "FusedMatMul", "Gemm", "MatMul"})


def finite(value: ir.Value | None) -> bool:
    """Whether a mask, or the sum of a mask and a product, is finite whatever the inputs are."""
    found = between(value)
    return found is not None and -LARGEST <= found[0] and found[1] <= LARGEST


def between(value: ir.Value | None) -> Range | None:
    """Return the least and the largest number that a value can hold; a product is taken for 0. None: unknown."""
    if value is None:
        return None
    if (array := constant(value)) is not None:
        return _of(array.astype(np.float64))
    node = value.producer()
    if node is None or node.domain not in ("", "com.microsoft"):
        return None
    if node.op_type in PRODUCTS:
        return 0.0, 0.0
    if node.domain:
        return None
    if node.op_type in MOVING:
        moved = node.inputs if node.op_type == "Concat" else node.inputs[:1]
        return _union([between(v) for v in moved])
    if node.op_type == "Where":
        return _union([between(v) for v in node.inputs[1:]])
    rule = RULES.get(node.op_type)
    return None if rule is None else rule(node)


def _of(array: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Range | None:
    if array.size == 0:
        return 0.0, 0.0
    found = float(array.min()), float(array.max())
    return None if np.isnan(found).any() else found


def _union(ranges: list[Range | None]) -> Range | None:
    known = [r for r in ranges if r is not None]
    return (min(r[0] for r in known), max(r[1] for r in known)) if len(known) == len(ranges) else None


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


RULES: dict[str, Callable[[ir.Node], Range | None]] = {
    "Add": _corners(lambda a, b: a + b), "Sub": _corners(lambda a, b: a - b), "Mul": _corners(lambda a, b: a * b),
    "Cast": _cast, "ConstantOfShape": _filled,
}  # fmt: skip
