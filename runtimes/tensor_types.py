"""Types of tensors by ONNX Runtime's names, as its profiles write them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from dlc.errors import Unsupported
from dlc.passes.concrete_shapes import Shape
from dlc.types import Array, Bytes

Types = Mapping[str, tuple[str, Shape]]
"""Type and shape of each tensor, by name."""

BITS = {
    "float": 32, "double": 64, "float16": 16, "bfloat16": 16, "bool": 8, "int4": 4, "uint4": 4, "int8": 8, "uint8": 8,
    "int16": 16, "uint16": 16, "int32": 32, "uint32": 32, "int64": 64, "uint64": 64, "float8e4m3fn": 8,
    "float8e4m3fnuz": 8, "float8e5m2": 8, "float8e5m2fnuz": 8,
}  # fmt: skip
FOREIGN = frozenset(t for t in BITS if t in ("bfloat16", "int4", "uint4") or t.startswith("float8"))
"""Types that ONNX Runtime computes with, and neither takes from nor gives to numpy."""


def byte_size(kind: str, shape: Shape) -> Bytes:
    """Return the bytes of a tensor whose type has ONNX Runtime's name; Unsupported if it has no fixed size."""
    if (bits := BITS.get(kind)) is None:
        raise Unsupported(f"a tensor of type {kind} has no fixed size in bytes; it cannot be planned")
    return -(-math.prod(shape) * bits // 8)


def ort_type(array: Array) -> tuple[str, Shape]:
    """Return the type of an array by ONNX Runtime's name, and its shape."""
    name = {"float32": "float", "float64": "double", "object": "string"}.get(str(array.dtype), str(array.dtype))
    return name, array.shape
