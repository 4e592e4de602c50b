"""Ranges of activations over calibration data, for static quantization.

One pass over the data. What is kept of a tensor is its extremes and one histogram of fixed size, whatever the number
of examples. Bins are ``2**e`` wide and aligned to zero. When a value falls outside, ``e`` grows and neighbours are
merged, which gives exactly the counts that the wider bins would have had from the start: order does not matter.
A value that underflows in units of a bin counts as zero.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dlc.errors import DataError, UserError
from dlc.runtimes.base import check_finite
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.types import Array, Feeds, Floats

BINS = 8192
LEVELS = 255
"""Steps of an 8-bit range."""
PERCENTILE = 99.99
SHRINKS = 64
"""Candidates for each end of a range in the search for the least squared error."""

Method: TypeAlias = Literal["minmax", "percentile", "mse"]


@dataclass(frozen=True, slots=True)
class Range:
    """What an activation may hold before it is clipped: ``low <= x <= high``."""

    low: float
    high: float


class Histogram:
    """Counts of values in ``BINS`` bins of width ``2**exponent``; bin ``BINS // 2`` starts at zero."""

    def __init__(self) -> None:
        self.low = np.inf
        self.high = -np.inf
        self.exponent: int | None = None
        self.counts: npt.NDArray[np.int64] = np.zeros(BINS, np.int64)

    def add(self, values: Array) -> None:
        """Count finite values; the bins are widened first if they must be."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        needed = _exponent(max(-self.low, self.high))
        if self.exponent is None:
            self.exponent = needed
        elif needed > self.exponent:
            at = np.arange(BINS) - BINS // 2 >> min(needed - self.exponent, 63)
            merged = np.zeros(BINS, np.int64)
            np.add.at(merged, at + BINS // 2, self.counts)
            self.counts, self.exponent = merged, needed
        scaled = values.reshape(-1) * np.float32(2.0**-self.exponent)  # exact
        at = np.floor(scaled, out=scaled).astype(np.intp)
        at += BINS // 2
        self.counts += np.bincount(at, minlength=BINS)

    @property
    def edges(self) -> Floats:
        """Lower edges of the bins, and the upper edge of the last, [BINS + 1]."""
        edges: Floats = np.ldexp(np.arange(BINS + 1) - BINS / 2, self.exponent or 0)
        return edges


def _exponent(magnitude: float) -> int:
    """Least ``e`` with ``magnitude < 2**e * BINS / 2``, but so large that ``2**-e`` is a float32."""
    _, e = np.frexp(magnitude)
    return max(int(e) - (BINS // 2).bit_length() + 1, -126)


def calibrate(
    model: ir.Model,
    batches: Iterable[Feeds],
    tensors: Sequence[str],
    *,
    method: Method = "mse",
    threads: int = 1,
) -> dict[str, Range]:
    """Run the data through a clone of a model and return the range of each named value.

    DataError if there is no data, or a named tensor holds NaN or infinity; UserError for a name the model lacks.
    """
    seen = {name: Histogram() for name in tensors}
    for outputs in observed(model, batches, tensors, threads):
        for name, values in outputs.items():
            if values.size:
                seen[name].add(values)
    if empty := [name for name, histogram in seen.items() if histogram.exponent is None]:
        raise DataError(f"the calibration data is empty: no value of {empty[0]!r} was seen; give at least one example")
    return {name: METHODS[method](histogram) for name, histogram in seen.items()}


def channel_means(
    model: ir.Model, batches: Iterable[Feeds], axes: Mapping[str, int], *, threads: int = 1
) -> dict[str, Floats]:
    """Run the data through a clone of a model and return the mean of each channel of named values, [C] each.

    ``axes``: the axis that counts the channels, by name. Errors are those of ``calibrate``; no data, no mean.
    """
    sums, counts = dict[str, Floats](), dict.fromkeys(axes, 0)
    for outputs in observed(model, batches, tuple(axes), threads):
        for name, values in outputs.items():
            rows = np.moveaxis(values, axes[name], 0).reshape(values.shape[axes[name]], -1)  # [C, n]
            sums[name] = sums.get(name, 0.0) + rows.sum(axis=1, dtype=np.float64)
            counts[name] += rows.shape[1]
    return {name: total / counts[name] for name, total in sums.items() if counts[name]}


def observed(
    model: ir.Model, batches: Iterable[Feeds], tensors: Collection[str], threads: int
) -> Iterator[dict[str, Array]]:
    """Run the data through a clone of a model and yield the named values of each batch, all finite.

    UserError for a name the model lacks, DataError for NaN and infinity.
    """
    clone = model.clone()
    inside = _expose(clone, tensors)
    config = SessionConfig(intra_op_threads=threads, graph_optimization="basic")
    with OrtCpuRunner(clone, config) as runner:
        for i, feeds in enumerate(batches):
            check_finite(feeds, f"calibration batch {i}")
            outputs = runner.run(feeds)
            values = {name: outputs[name] if name in inside else feeds[name] for name in tensors}
            for name, array in values.items():
                _check(name, i, array)
            yield values


def _expose(model: ir.Model, tensors: Collection[str]) -> set[str]:
    """Make inner values outputs; return the names that are outputs, the other ones are inputs."""
    known = {v.name: v for node in model.graph for v in node.outputs}
    inputs = {v.name for v in model.graph.inputs}
    if missing := [name for name in tensors if name not in known and name not in inputs]:
        raise UserError(f"cannot calibrate {missing[0]!r}: the model has no value of that name")
    outputs = {v.name for v in model.graph.outputs}
    model.graph.outputs.extend(known[name] for name in tensors if name in known and name not in outputs)
    return {name for name in tensors if name in known}


def _check(name: str, batch: int, values: Array) -> None:
    if values.size and not np.isfinite([values.min(), values.max()]).all():  # either is NaN if any value is
        raise DataError(
            f"calibration batch {batch}: {name!r} holds NaN or infinity; "
            f"the model overflows on this data, or the data is not scaled as the model expects"
        )


def minmax(seen: Histogram) -> Range:
    """Everything that was seen."""
    return Range(seen.low, seen.high)


def percentile(seen: Histogram) -> Range:
    """All but the outermost ``100 - PERCENTILE`` percent at each end."""
    share = np.cumsum(seen.counts) / seen.counts.sum()
    low = int(np.searchsorted(share, 1 - PERCENTILE / 100, side="right"))
    high = int(np.searchsorted(share, PERCENTILE / 100, side="left"))
    return _within(seen, float(seen.edges[low]), float(seen.edges[high + 1]))


def mse(seen: Histogram) -> Range:
    """Least squared error of 8-bit quantization.

    ``E(l, h) = sum_{x<l} (x-l)^2 + sum_{x>h} (x-h)^2 + n step^2 / 12``, ``step = (h - l) / 255``: values outside are
    clipped, those inside are rounded with an error that is uniform in one step. Both ends are searched together;
    zero always stays inside.
    """
    counts = seen.counts.astype(np.float64)
    x = (seen.edges[:-1] + seen.edges[1:]) / 2
    shrink = np.arange(1, SHRINKS + 1) / SHRINKS
    lows, highs = min(seen.low, 0.0) * shrink, max(seen.high, 0.0) * shrink  # [S], [S]
    below = np.array([counts @ np.minimum(x - low, 0) ** 2 for low in lows])
    above = np.array([counts @ np.maximum(x - high, 0) ** 2 for high in highs])
    step = (highs[None, :] - lows[:, None]) / LEVELS
    error = below[:, None] + above[None, :] + counts.sum() * step**2 / 12  # [S, S]
    low, high = np.unravel_index(int(error.argmin()), error.shape)
    return Range(float(lows[low]), float(highs[high]))


def _within(seen: Histogram, low: float, high: float) -> Range:
    return Range(max(low, seen.low), min(high, seen.high))


METHODS: Mapping[Method, Callable[[Histogram], Range]] = {
    "minmax": minmax, "percentile": percentile, "mse": mse,
}  # fmt: skip
