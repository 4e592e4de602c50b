"""From what was seen of an activation to the range that 8 bits shall cover."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dlc.calibration import DEFAULT, Calibration, Method
from dlc.histogram import BINS, Extremes, Histogram
from dlc.types import Floats

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
    counts = seen.counts.astype(np.float64)
    counts[BINS // 2] = min(counts[BINS // 2], counts[BINS // 2 + 1])
    limit = max(-seen.low, seen.high)
    best, chosen = np.inf, Range(min(seen.low, 0.0), max(seen.high, 0.0))
    for share in (k / SHRINKS for k in range(SHRINKS, 0, -1)):
        low, high = max(min(seen.low, 0.0), -limit * share), min(max(seen.high, 0.0), limit * share)
        first, last = np.searchsorted(seen.edges, low, "right") - 1, np.searchsorted(seen.edges, high, "left")
        if last - first < FINEST * LEVELS:
            break
        if (lost := _divergence(counts, int(first), int(last))) < best:
            best, chosen = lost, Range(low, high)
    return chosen


def _divergence(counts: Floats, first: int, last: int) -> float:
    """``KL(P || Q)`` if the bins ``first <= i < last`` share the levels evenly; infinite if Q lacks what P has."""
    inside = counts[first:last]
    p = inside.copy()
    p[0] += counts[:first].sum()
    p[-1] += counts[last:].sum()
    held = p > 0
    level = np.arange(p.size) * LEVELS // p.size
    q = np.bincount(level, inside, LEVELS)[level] / np.maximum(np.bincount(level, held, LEVELS), 1)[level]
    p, q = p[held], q[held]
    if not p.size or not q.all():
        return np.inf
    return float((p * np.log(p / q * (q.sum() / p.sum()))).sum() / p.sum())


def _within(seen: Histogram, low: float, high: float) -> Range:
    return Range(max(low, seen.low), min(high, seen.high))
