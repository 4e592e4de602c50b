"""Ratios of latencies, from their logarithms: trimmed means, which one disturbed measurement of seven does not blur.

The smallest and the largest fifth are left out; the interval is that of K. K. Yuen's t (1974), and of two samples that
of Yuen and Welch. Fewer than five logarithms are not trimmed: then these are Student's t and Welch's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dlc.manifest import Estimate
from dlc.types import Array, Floats

TRIM = 0.2
"""Share that is left out at either end, of seven one: what R. Wilcox (2012) advises."""
BLOCKS = 8
"""Into which the rounds of one run are cut: bursts of other work last several rounds, and fall into few blocks."""
ITSELF = Estimate(value=1.0, low=1.0, high=1.0)


@dataclass(frozen=True, slots=True)
class Shift:
    """By which factor a ratio moved; ``slower``: one-sided p-value that it is within its limit."""

    factor: Estimate
    slower: float


def fastest(numerator: Array, denominator: Array) -> Estimate:
    """Estimate the ratio of two latencies measured in the same rounds [n]: of the fastest in each block of them."""
    n = len(numerator)
    if n != len(denominator) or n == 0:
        raise ValueError(f"{n} and {len(denominator)} rounds cannot be paired")
    blocks = [
        np.log([block.min() for block in np.array_split(times, min(BLOCKS, n))]) for times in (numerator, denominator)
    ]
    return ratio(np.subtract(*blocks))


def ratio(logs: Sequence[float] | Floats, floor: float = 0.0) -> Estimate:
    """Estimate a ratio from its logarithm in each sitting; all are 0 only of a model against itself, which is 1.

    ``floor``: as of ``shift``.
    """
    return _centre(logs, floor).estimate() if np.any(logs) else ITSELF


def shift(
    now: Sequence[float], before: Sequence[float], *, same: bool, floor: float = 0.0, limit: float = 1.0
) -> Shift:
    """Compare logs of ratios, of the ``same`` sittings in pairs, else as two samples.

    ``floor``: standard deviation of A against A in one sitting; no mean is taken to be steadier than that.
    """
    moved = _centre(np.subtract(now, before) if same else now, floor)
    if not same:
        moved = moved.minus(_centre(before, floor))
    return Shift(moved.estimate(), moved.chance(limit))


def slower(logs: Sequence[float], limit: float, floor: float = 0.0) -> float | None:
    """One-sided p-value that a ratio is within its limit; None without a logarithm. ``floor``: as of ``shift``."""
    return _centre(logs, floor).chance(limit) if logs else None


def spread(logs: Sequence[float]) -> float:
    """Root mean square of A against A about 0, where it should be: the noise floor of one sitting.

    The largest fifth count as the next one: a sitting that is left out of a mean must not widen its interval.
    """
    if not len(logs):
        return 0.0
    sizes = np.sort(np.abs(np.asarray(logs, np.float64)))
    largest = sizes[len(sizes) - 1 - int(TRIM * len(sizes))]
    return float(np.sqrt(np.mean(np.square(np.minimum(sizes, largest)))))


@dataclass(frozen=True, slots=True)
class _Centre:
    """A mean of logarithms, its standard error, and the degrees of freedom of that; with none nothing is known."""

    mean: float
    error: float
    freedom: float

    def minus(self, other: _Centre) -> _Centre:
        """Return the difference of two independent ones; the freedom is F. E. Satterthwaite's (1946)."""
        mean, error = self.mean - other.mean, math.hypot(self.error, other.error)
        if not math.isfinite(error) or error == 0:
            return _Centre(mean, error, 0.0 if error else 1.0)
        shares = ((each.error / error) ** 4 / each.freedom for each in (self, other))
        return _Centre(mean, error, 1 / sum(shares))

    def estimate(self) -> Estimate:
        """Return the factor and its 95 % interval."""
        from scipy.special import stdtrit

        half = self.error * float(stdtrit(self.freedom, 0.975)) if self.freedom > 0 else math.inf
        return Estimate(value=_exp(self.mean), low=_exp(self.mean - half), high=_exp(self.mean + half))

    def chance(self, limit: float) -> float:
        """Return the one-sided p-value that the factor is not above a limit."""
        from scipy.special import stdtr

        beyond = self.mean - math.log(limit)
        if not self.freedom > 0:
            return 1.0
        return float(stdtr(self.freedom, -beyond / self.error)) if self.error > 0 else float(beyond <= 0)


def _centre(logs: Sequence[float] | Floats, floor: float) -> _Centre:
    """Trim the mean; its error is of the winsorized values, in which those left out count as their next neighbours."""
    values = np.sort(np.asarray(logs, np.float64))
    count, cut = len(values), int(TRIM * len(values))
    if count < 2:
        return _Centre(float(values.mean()), math.inf, 0.0)
    kept = values[cut : count - cut]
    winsorized = np.clip(values, kept[0], kept[-1])
    own = math.sqrt((count - 1) * float(winsorized.var(ddof=1)) / (len(kept) * (len(kept) - 1)))
    return _Centre(float(kept.mean()), max(own, floor / math.sqrt(count)), len(kept) - 1)


def _exp(x: float) -> float:
    return float(np.exp(np.clip(x, -700, 700)))  # within the doubles
