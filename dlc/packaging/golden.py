"""Golden vectors that any language can read: ``golden.json`` names the tensors, ``golden.bin`` holds their bytes.

Bytes are little endian in C order, each tensor at a multiple of ``ALIGNMENT``. An answer agrees if, for each output,
``max|got - stated| <= bound * max|stated|``; shapes, types and integers must be equal, NaNs in the same places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from dlc.errors import Unsupported
from dlc.interface import TensorType
from dlc.manifest import Record
from dlc.packaging.source import Source
from dlc.pretty import pretty_json
from dlc.types import Array, Bytes

INDEX, DATA = "golden.json", "golden.bin"
ALIGNMENT: Bytes = 64
DTYPES = (
    "float32", "float64", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool",
)  # fmt: skip
"""What ONNX Runtime's C, Node and web interfaces all take."""


class Tensor(Record, frozen=True, kw_only=True):
    """Where a tensor lies in ``golden.bin``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: Bytes
    bytes: Bytes


class Vector(Record, frozen=True, kw_only=True):
    """What is fed, and what must come back."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Golden(Record, frozen=True, kw_only=True):
    """The content of ``golden.json``."""

    schema: Literal["dlc-golden/1"] = "dlc-golden/1"
    bound: float
    reason: str
    vectors: tuple[Vector, ...]


def write(source: Source, folder: Path) -> Golden:
    """Write both files of a variant; Unsupported names a tensor whose type other languages do not take."""
    data = bytearray()
    inputs, outputs = source.interface.inputs, source.interface.outputs  # their order is what C and JavaScript index by
    vectors = tuple(
        Vector(inputs=_append(data, inputs, feeds), outputs=_append(data, outputs, stated))
        for feeds, stated in source.golden
    )
    golden = Golden(bound=source.tolerance.bound, reason=source.tolerance.reason, vectors=vectors)
    (folder / DATA).write_bytes(data)
    (folder / INDEX).write_bytes(pretty_json(golden))
    return golden


def read(folder: Path) -> Golden:
    """Read the index."""
    return msgspec.json.decode((folder / INDEX).read_bytes(), type=Golden)


def _append(data: bytearray, order: Sequence[TensorType], arrays: Mapping[str, Array]) -> tuple[Tensor, ...]:
    return tuple(_append_one(data, t.name, arrays[t.name]) for t in order)


def _append_one(data: bytearray, name: str, array: Array) -> Tensor:
    if str(array.dtype) not in DTYPES:
        raise Unsupported(f"tensor {name!r} is of type {array.dtype}; packages take {', '.join(DTYPES)}")
    data += bytes(-len(data) % ALIGNMENT)
    raw = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    tensor = Tensor(name=name, dtype=str(array.dtype), shape=array.shape, offset=len(data), bytes=len(raw))
    data += raw
    return tensor
