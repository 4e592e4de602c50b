"""From what was seen of an activation to the range that 8 bits shall cover."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import xlogy

from dlc.calibration import DEFAULT, Calibration, Method
from dlc.histogram import BINS, Extremes, Histogram
from dlc.types import Floats

Indices: TypeAlias = npt.NDArray[np.intp]

LEVELS = 255
"""Steps of an 8-bit range."""
SHRINKS = 64
"""Candidates for each end of a range in the searches."""
FINEST = 4
"""Bins that a level must hold for their counts to show what rounding loses."""


@dataclass(frozen=True, slots=True)
class Range:
    """What an activation may hold before it is clipped: ``low <= x <= high``."""

    low: float
    high: float


def clipped(seen: Extremes, method: Method, options: Calibration) -> Range:
    """Choose the range of an activation; all but ``minmax`` and ``moving-average`` need its histogram."""
    if method == "minmax":
        return minmax(seen)
    if method == "moving-average":
        return moving_average(seen)
    assert isinstance(seen, Histogram), method
    if method == "percentile":
        return percentile(seen, options.percentile)
    return entropy(seen) if method == "entropy" else mse(seen)


def minmax(seen: Extremes) -> Range:
    """Everything that was seen."""
    return Range(seen.low, seen.high)


def moving_average(seen: Extremes) -> Range:
    """Extremes of a batch, averaged so that late batches count most (Jacob et al., 2018); the order matters."""
    return Range(*(seen.average or (0.0, 0.0)))


def percentile(seen: Histogram, percent: float = DEFAULT.percentile) -> Range:
    """All but the outermost ``100 - percent`` percent at each end."""
    share = np.cumsum(seen.counts) / seen.counts.sum()
    low = int(np.searchsorted(share, 1 - percent / 100, side="right"))
    high = min(int(np.searchsorted(share, percent / 100, side="left")), BINS - 1)
    return _within(seen, float(seen.edges[min(low, high)]), float(seen.edges[high + 1]))


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


def entropy(seen: Histogram) -> Range:
    """Least information lost: the magnitude ``t`` at which what 8 bits make of the values differs least from them.

    ``KL(P || Q) = sum p log(p / q)``: P are the counts with what lies outside ``[-t, t]`` moved to its ends, Q those
    inside, spread evenly over the bins of each level that hold any (Migacz, "8-bit inference with TensorRT", 2017).
    Both are shares. Zero is always a level, so the bin of zero, most of a ReLU's output, counts no more than its
    neighbour. Levels keep ``FINEST`` bins at least: in finer ones rounding would seem to lose nothing.
    """
    counts, edges = seen.counts.astype(np.float64), seen.edges
    counts[BINS // 2] = min(counts[BINS // 2], counts[BINS // 2 + 1])
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    reach = max(-low, high) * np.arange(SHRINKS, 0, -1) / SHRINKS
    lows, highs = np.maximum(low, -reach), np.minimum(high, reach)
    first, last = np.searchsorted(edges, lows, "right") - 1, np.searchsorted(edges, highs, "left")
    fine = last - first >= FINEST * LEVELS
    if not fine.any():
        return Range(low, high)
    lost = _Sums.of(counts).divergence(first[fine], last[fine])
    at = int(lost.argmin())
    return Range(float(lows[at]), float(highs[at])) if lost[at] < np.inf else Range(low, high)


@dataclass(frozen=True, slots=True)
class _Sums:
    """Running sums over the bins, [BINS + 1] each: of the counts n, of those that hold any, and of ``n log n``."""

    counts: Floats
    total: Floats
    held: Floats
    entropy: Floats

    @staticmethod
    def of(counts: Floats) -> _Sums:
        each = (counts, counts > 0, xlogy(counts, counts))
        return _Sums(counts, *(np.concatenate([[0.0], np.cumsum(one, dtype=np.float64)]) for one in each))

    def divergence(self, first: Indices, last: Indices) -> Floats:
        """``KL(P || Q)``, [S], if bins ``first <= i < last`` share the levels evenly; infinite if Q lacks what P has.

        With the sums of P and Q, ``sum p log p - sum p log q``: q is one number in a level, so the second is a sum over
        levels. P differs from the counts in the bins at both ends only.
        """
        begins = -(-np.arange(LEVELS + 1) * (last - first)[:, None] // LEVELS)  # [S, LEVELS + 1], rounded up
        at = first[:, None] + begins
        inside, held = np.diff(self.total[at]), np.diff(self.held[at])
        p, surprise = inside.copy(), self.entropy[last] - self.entropy[first]
        below, above = self.total[first], self.total[-1] - self.total[last]
        for level, end, outside in ((0, first, below), (-1, last - 1, above)):
            n = self.counts[end]
            p[:, level] += outside
            held[:, level] += (n == 0) & (outside > 0)
            surprise += xlogy(n + outside, n + outside) - xlogy(n, n)
        q = np.where(inside > 0, inside, 1) / np.maximum(held, 1)
        shared = inside.sum(axis=1)
        sound = (shared > 0) & ((inside > 0) | (p == 0)).all(axis=1)
        size, shared = (np.where(sound, each, 1) for each in (p.sum(axis=1), shared))
        return np.where(sound, (surprise - (p * np.log(q)).sum(axis=1)) / size + np.log(shared / size), np.inf)


def _within(seen: Histogram, low: float, high: float) -> Range:
    return Range(max(low, seen.low), min(high, seen.high))
