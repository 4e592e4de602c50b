"""Constant factors of a product, in whichever order an exporter wrote it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dlc.passes.base import only_user, scalar

ROUNDING = 2 * float(np.finfo(np.float32).eps)
"""A constant and its inverse, each rounded to FP32, are at most two roundings apart."""


@dataclass(frozen=True, slots=True)
class Product:
    """``factor * base`` or ``factor * base * x``, complete at a node. ``times_x``: which of them."""

    last: ir.Node
    factor: float
    times_x: bool


def products(value: ir.Value, x: ir.Value) -> list[Product]:
    """Follow products with constants, and at most one with ``x``, from a value on, as long as each has one reader."""
    found: list[Product] = []
    factor, times_x = 1.0, False
    while (node := only_user(value)) is not None and node.domain == "" and node.op_type in ("Mul", "Div"):
        if node.op_type == "Div" and node.inputs[0] is not value:
            break
        other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
        if number := scalar(other):
            factor = factor * number if node.op_type == "Mul" else factor / number
        else:
            scale, base = (1.0, x) if other is x else scaled(other)
            if base is not x or node.op_type == "Div" or times_x:
                break
            factor, times_x = factor * scale, True
        found.append(Product(node, factor, times_x))
        value = node.outputs[0]
    return found


def scaled(value: ir.Value | None) -> tuple[float, ir.Value | None]:
    """Strip one product with, or division by, a scalar constant."""
    node = value.producer() if value is not None else None
    if node is not None and node.domain == "" and node.op_type in ("Mul", "Div"):
        left, right = scalar(node.inputs[0]), scalar(node.inputs[1])
        if right:
            return (right if node.op_type == "Mul" else 1 / right), node.inputs[0]
        if left is not None and node.op_type == "Mul":
            return left, node.inputs[1]
    return 1.0, value


def keeps_shape(last: ir.Node, x: ir.Value) -> bool:
    """Whether a product has the shape of x: a constant of rank 1 makes a vector of a scalar."""
    y = last.outputs[0].shape
    return x.shape is None or len(x.shape) > 0 or (y is not None and len(y) == 0)
