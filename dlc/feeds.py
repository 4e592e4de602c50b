"""Seeded inputs for a model: within the declared bounds, at any sizes of its dynamic dimensions."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from dlc.errors import DataError, Unsupported
from dlc.interface import Interface, TensorType
from dlc.recipe import Dim, Input
from dlc.types import Array, Feeds

GROWTH = 8
"""How many times the typical number of elements a measurement at large sizes may take."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What may be fed to a model: its inputs, and the bounds of its dynamic dimensions."""

    inputs: Mapping[str, Input]
    dims: Mapping[str, Dim]


def seeded_feeds(
    interface: Interface, recipe_inputs: Mapping[str, Input], sizes: Mapping[str, int], rng: np.random.Generator
) -> Feeds:
    """Draw one set of feeds, with each dynamic dimension at its size; an unnamed dimension gets size 1."""
    return {t.name: _draw(t, recipe_inputs.get(t.name), _shape(t, sizes), rng) for t in interface.inputs}


def input_like(example: Array) -> Input:
    """Declare an input with the dtype and shape of an example; integers keep the example's range."""
    if example.dtype.kind in "iu" and example.size:
        return Input(str(example.dtype), example.shape, low=float(example.min()), high=float(example.max()) + 1)
    return Input(str(example.dtype), example.shape)


def typical_sizes(dims: Mapping[str, Dim]) -> dict[str, int]:
    """Sizes at which a model is measured."""
    return {name: dim.typical for name, dim in dims.items()}


def least_sizes(dims: Mapping[str, Dim]) -> dict[str, int]:
    """Return the smallest sizes that are declared."""
    return {name: dim.min for name, dim in dims.items()}


def measured_sizes(dims: Mapping[str, Dim]) -> list[dict[str, int]]:
    """Sizes at which rewrites are measured: the typical, the least, and large ones, each once.

    The large ones lie between typical and largest, in equal steps of ratio, at most ``GROWTH`` times the elements.
    """
    growth = math.prod(dim.max / dim.typical for dim in dims.values())
    share = min(1.0, math.log(GROWTH) / math.log(growth)) if growth > 1 else 1.0
    large = {name: max(dim.typical, int(dim.typical * (dim.max / dim.typical) ** share)) for name, dim in dims.items()}
    points = [typical_sizes(dims), least_sizes(dims), large]
    return [p for i, p in enumerate(points) if p not in points[:i]]


def distinct_sizes(dims: Mapping[str, Dim], fixed: Collection[int] = ()) -> dict[str, int]:
    """Sizes near the typical that tell dims apart: not 1, nor equal to each other or a fixed size, if bounds allow.

    Tracing takes a size of 1 for a constant, and two equal sizes for one dimension.
    """
    chosen: dict[str, int] = {}
    for name, dim in dims.items():
        taken = {1, *chosen.values(), *fixed}
        free = (n for n in _near(dim) if n not in taken)
        chosen[name] = next(free, next((n for n in _near(dim) if n > 1), dim.max))
    return chosen


def compared_sizes(declared: Declared) -> list[dict[str, int]]:
    """Sizes at which two computations are compared: typical, all dims distinct, all dims least; each once."""
    dims = declared.dims
    fixed = {d for spec in declared.inputs.values() for d in spec.shape if isinstance(d, int)}
    other = {n: Dim(d.min, d.max, min(d.typical + 1, d.max)) for n, d in dims.items()}
    points = [typical_sizes(dims), distinct_sizes(other, fixed), least_sizes(dims)]
    return [p for i, p in enumerate(points) if p not in points[:i]]


def at_sizes(sizes: Mapping[str, int]) -> str:
    """Say in words at which sizes something was run."""
    return ", ".join(f"{name}={size}" for name, size in sizes.items()) or "the fixed shape"


def _near(dim: Dim) -> Iterator[int]:
    yield from range(dim.typical, dim.max + 1)
    yield from range(dim.typical - 1, dim.min - 1, -1)


def _shape(tensor: TensorType, sizes: Mapping[str, int]) -> tuple[int, ...]:
    if tensor.shape is None:
        raise Unsupported(f"input {tensor.name!r} has no rank; declare its shape in the recipe's inputs")
    if missing := [d for d in tensor.shape if isinstance(d, str) and d not in sizes]:
        raise DataError(f"input {tensor.name!r}: no size is given for dimension {missing[0]!r}")
    return tuple(sizes[d] if isinstance(d, str) else 1 if d is None else d for d in tensor.shape)


def _draw(tensor: TensorType, spec: Input | None, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    dtype = _dtype(tensor)
    low, high = (spec.low, spec.high) if spec else (None, None)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        first = 0 if low is None else int(low)
        return rng.integers(first, first + 2 if high is None else int(high), shape).astype(dtype)
    if low is None and high is None:
        return rng.standard_normal(shape).astype(dtype)
    start = low if low is not None else (high or 0.0) - 1
    return rng.uniform(start, start + 1 if high is None else high, shape).astype(dtype)


def _dtype(tensor: TensorType) -> np.dtype[Any]:
    dtype: np.dtype[Any] | None
    try:
        dtype = np.dtype(ml_dtypes.bfloat16 if tensor.dtype == "bfloat16" else tensor.dtype)
    except TypeError:
        dtype = None
    if dtype is None or (dtype.kind not in "biuf" and tensor.dtype != "bfloat16"):
        raise Unsupported(f"input {tensor.name!r} has dtype {tensor.dtype}; dlc feeds numbers only")
    return dtype
