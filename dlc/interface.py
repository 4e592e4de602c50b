"""What a model promises its callers: names, order, dtypes and shapes of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import onnx_ir as ir

from dlc.errors import DataError
from dlc.types import Array, Feeds

Extent = int | str | None
"""A fixed size, the name of a dynamic dimension, or unknown."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """One input or output; ``shape`` is None when the rank is unknown."""

    name: str
    dtype: str
    shape: tuple[Extent, ...] | None

    def __str__(self) -> str:
        shape = "?" if self.shape is None else ",".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.name}: {self.dtype}[{shape}]"

    @classmethod
    def of(cls, value: ir.Value) -> Self:
        """Read a graph value; dtypes carry numpy's names (``float32``)."""
        shape = None
        if value.shape is not None:
            shape = tuple(d if isinstance(d, int) else d.value for d in value.shape)
        dtype = "unknown" if value.dtype is None else str(value.dtype.numpy())
        return cls(value.name or "", dtype, shape)


@dataclass(frozen=True, slots=True)
class Interface:
    """Inputs that a caller must feed, and outputs, both in order."""

    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]

    @classmethod
    def of(cls, model: ir.Model) -> Self:
        """Read the interface of a model; inputs that have an initializer are optional and left out."""
        graph = model.graph
        required = (v for v in graph.inputs if v.name not in graph.initializers)
        return cls(tuple(map(TensorType.of, required)), tuple(map(TensorType.of, graph.outputs)))

    def diff(self, other: Interface) -> str:
        """Say in one line where two interfaces differ."""
        changes = [
            f"{kind} {a or 'nothing'} became {b or 'nothing'}"
            for kind, mine, theirs in (
                ("input", self.inputs, other.inputs),
                ("output", self.outputs, other.outputs),
            )
            for a, b in _zip(mine, theirs)
            if a != b
        ]
        return "; ".join(changes)

    def check_feeds(self, feeds: Feeds) -> None:
        """Raise DataError if feeds do not fit: a name, a dtype, a rank, a size, or two sizes of one dynamic dim."""
        expected = {t.name: t for t in self.inputs}
        if unknown := [n for n in feeds if n not in expected]:
            raise DataError(f"no input is named {unknown[0]!r}; the model has {', '.join(map(repr, expected))}")
        if missing := [n for n in expected if n not in feeds]:
            raise DataError(f"input {missing[0]!r} is not fed; the model needs {', '.join(map(repr, expected))}")
        sizes: dict[str, tuple[int, str]] = {}
        for name, array in feeds.items():
            _check_one(expected[name], np.asarray(array), sizes)


def _check_one(tensor: TensorType, array: Array, sizes: dict[str, tuple[int, str]]) -> None:
    if tensor.dtype not in ("unknown", str(array.dtype)):
        raise DataError(f"input {tensor.name!r} has dtype {array.dtype}, the model wants {tensor.dtype}")
    if tensor.shape is None:
        return
    if len(tensor.shape) != array.ndim:
        raise DataError(f"input {tensor.name!r} has shape {list(array.shape)}, the model wants {tensor}")
    for extent, size in zip(tensor.shape, array.shape, strict=True):
        if isinstance(extent, int) and extent != size:
            raise DataError(f"input {tensor.name!r} has shape {list(array.shape)}, the model wants {tensor}")
        if isinstance(extent, str):
            known, where = sizes.setdefault(extent, (size, tensor.name))
            if known != size:
                raise DataError(f"dimension {extent!r} is {known} in {where!r} and {size} in {tensor.name!r}")


def _zip(
    mine: tuple[TensorType, ...], theirs: tuple[TensorType, ...]
) -> Iterator[tuple[TensorType | None, TensorType | None]]:
    for i in range(max(len(mine), len(theirs))):
        yield (mine[i] if i < len(mine) else None), (theirs[i] if i < len(theirs) else None)


def sizes_of(interface: Interface, feeds: Feeds) -> Mapping[str, int]:
    """Return the size that each dynamic dimension has in these feeds."""
    return {
        extent: size
        for tensor in interface.inputs
        for extent, size in zip(tensor.shape or (), feeds[tensor.name].shape, strict=False)
        if isinstance(extent, str)
    }
