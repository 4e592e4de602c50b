"""What is kept of one activation over all of the calibration data, whatever its size: extremes, and a histogram.

Bins are ``2**e`` wide and aligned to zero. When a value falls outside, ``e`` grows and neighbours are merged, which
gives exactly the counts that the wider bins would have had from the start: order does not matter. A value that
underflows in units of a bin counts as zero.

Extremes are those of every value. Of a large batch some values are counted, evenly spread, each for its neighbours too:
a share p of the values is then known to ``sqrt(p (1 - p) / COUNTED)`` for a batch, and better over all batches.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dlc.types import Array, Bytes, Floats

BINS = 8192
CHUNK = 1 << 16
"""Values counted at a time: what they become on the way stays in the processor's cache."""
COUNTED = 1 << 16
"""Values of a batch that are counted at most, about; their share of 1e-4 is known to 4e-5 of the values, or better."""
SEEN = 1 << 17
"""Values whose extremes are looked for at a time: the cache holds them for the second reading."""
LANES = 2
"""Neighbours are counted apart: where many are equal, as after ReLU, one count would wait for the other."""
_LANE = (np.arange(CHUNK) % LANES * BINS + BINS // 2).astype(np.int32)


class Extremes:
    """The least and the largest value, and moving averages of those of each batch."""

    nbytes: Bytes = 0

    def __init__(self, momentum: float = 0.9) -> None:
        self.low = np.inf
        self.high = -np.inf
        self.average: tuple[float, float] | None = None
        self._momentum = momentum

    def add(self, values: Array, extremes: tuple[float, float] | None = None) -> None:
        """Take in finite values, at least one; ``extremes``: their least and largest, where known."""
        low, high = extremes or extremes_of(values)
        self.low, self.high = min(self.low, low), max(self.high, high)
        before = self.average or (low, high)
        keep = self._momentum
        self.average = keep * before[0] + (1 - keep) * low, keep * before[1] + (1 - keep) * high


class Histogram(Extremes):
    """Counts of values in ``BINS`` bins of width ``2**exponent``, too; bin ``BINS // 2`` starts at zero."""

    nbytes: Bytes = 8 * BINS

    def __init__(self, momentum: float = 0.9) -> None:
        super().__init__(momentum)
        self.exponent: int | None = None
        self._batches = 0
        self.counts: npt.NDArray[np.int64] = np.zeros(BINS, np.int64)

    def add(self, values: Array, extremes: tuple[float, float] | None = None) -> None:
        """Count finite values, some for others; the bins are widened first if they must be."""
        super().add(values, extremes)
        needed = _exponent(max(-self.low, self.high))
        if self.exponent is None:
            self.exponent = needed
        elif needed > self.exponent:
            at = np.arange(BINS) - BINS // 2 >> min(needed - self.exponent, 63)
            merged = np.zeros(BINS, np.int64)
            np.add.at(merged, at + BINS // 2, self.counts)
            self.counts, self.exponent = merged, needed
        step = values.size // COUNTED | 1  # odd, lest it meet the same column of each row
        self.counts += step * _count(values.reshape(-1)[self._batches % step :: step], self.exponent)
        self._batches += 1

    @property
    def edges(self) -> Floats:
        """Lower edges of the bins, and the upper edge of the last, [BINS + 1]."""
        edges: Floats = np.ldexp(np.arange(BINS + 1) - BINS / 2, self.exponent or 0)
        return edges


def extremes_of(values: Array) -> tuple[float, float]:
    """Return the least and the largest value; both are NaN if any is."""
    flat = values.reshape(-1)
    ends = [
        (np.minimum.reduce(c), np.maximum.reduce(c)) for i in range(0, flat.size, SEEN) for c in [flat[i : i + SEEN]]
    ]
    lows, highs = zip(*ends, strict=True)
    return float(np.minimum.reduce(lows)), float(np.maximum.reduce(highs))


def _count(values: Array, exponent: int) -> npt.NDArray[np.int64]:
    """Count how many values lie in each bin, [BINS]."""
    size = min(CHUNK, values.size)
    scaled = np.empty(size, np.result_type(values, np.float32))
    at, counts = np.empty(size, np.int32), np.zeros(LANES * BINS, np.int64)
    scale = scaled.dtype.type(2.0**-exponent)
    for start in range(0, values.size, CHUNK):
        chunk = values[start : start + CHUNK]
        n = chunk.size
        np.multiply(chunk, scale, out=scaled[:n])  # exact
        np.floor(scaled[:n], out=scaled[:n])
        np.copyto(at[:n], scaled[:n], casting="unsafe")
        at[:n] += _LANE[:n]
        counts += np.bincount(at[:n], minlength=LANES * BINS)
    both: npt.NDArray[np.int64] = counts.reshape(LANES, BINS).sum(axis=0)
    return both


def _exponent(magnitude: float) -> int:
    """Least ``e`` with ``magnitude < 2**e * BINS / 2``, but so large that ``2**-e`` is a float32."""
    _, e = np.frexp(magnitude)
    return max(int(e) - (BINS // 2).bit_length() + 1, -126)
