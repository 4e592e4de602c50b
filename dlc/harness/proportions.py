"""Shares of right answers, compared in pairs: intervals by score methods, an exact test, and what it can see.

A bootstrap of right and wrong answers understates its interval where few examples changed, and gives none where none
did. Counts have closed forms that hold there. A pair of models sorts n examples into four counts:

                     candidate right   wrong
    reference right       both         lost
              wrong       gained       neither
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dlc.manifest import Estimate
from dlc.types import Floats

Z = 1.959963984540054
"""The standard normal's 97.5th percentile: intervals hold 95 %."""
WIDEST = 8.0
"""The widest interval that a p-value is looked for in: beyond it, one is below 1e-15 and tells no more."""
ALPHA = 0.05
"""Chance of calling a candidate worse that is not, one-sided; over all gates of a run (``holm``)."""
POWER = 0.95
"""Chance with which a stated drop is seen."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """How many examples both models, either, or neither got right."""

    both: int
    lost: int
    gained: int
    neither: int

    @property
    def examples(self) -> int:
        """All examples, n."""
        return self.both + self.lost + self.gained + self.neither


def pairs(reference: Floats, candidate: Floats) -> Pairs | None:
    """Count the pairs of two columns of hits [n, 1]; None if the rows are no hits."""
    if reference.shape != candidate.shape or reference.ndim != 2 or reference.shape[1] != 1 or len(reference) == 0:
        return None
    if not (np.isin(reference, (0, 1)).all() and np.isin(candidate, (0, 1)).all()):
        return None
    a, b = reference[:, 0] == 1, candidate[:, 0] == 1
    return Pairs(int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum()))


def scale(statistic: Callable[[Floats], float], *rows: Floats) -> float | None:
    """Return s if the statistic is s times the mean of hits (100 for a percentage), else None."""
    try:
        factor = float(statistic(np.ones((1, 1))))
        # The mean of n numbers, and one product, each round once: 2 eps; 4 leaves room for another order of the sum.
        bound = 4 * np.finfo(np.float64).eps * abs(factor)
        linear = all(abs(float(statistic(r)) - factor * float(r.mean())) <= bound for r in (np.zeros((1, 1)), *rows))
    except Exception:  # noqa: BLE001 - a user's statistic may need more than the one row made up here
        return None
    return factor if linear and factor > 0 else None


def share(hits: int, examples: int, z: float = Z) -> Estimate:
    """Wilson's score interval of a proportion (E. B. Wilson, 1927)."""
    low, high = _wilson(hits, examples, z)
    value = hits / examples
    return Estimate(value=value, low=min(low, value), high=max(high, value))  # the root rounds


def difference(counts: Pairs, z: float = Z) -> Estimate:
    """Estimate (lost - gained) / n, with Tango's score interval (T. Tango, Statistics in Medicine 17, 1998)."""
    from scipy.optimize import brentq

    drop, edge = (counts.lost - counts.gained) / counts.examples, 1 - 1e-12  # at ±1 itself the variance is 0
    low = brentq(lambda d: _tango(counts, d) - z, -edge, drop) if _tango(counts, -edge) > z else -1.0
    high = brentq(lambda d: _tango(counts, d) + z, drop, edge) if _tango(counts, edge) < -z else 1.0
    return Estimate(value=drop, low=min(low, drop), high=max(high, drop))


def chance_at_most(counts: Pairs, bound: float) -> float:
    """One-sided p-value that the drop is at most ``bound``, as a share: Tango's score, as the interval's."""
    from scipy.special import ndtr

    return float(ndtr(-_tango(counts, bound)))


def _tango(counts: Pairs, d: float) -> float:
    """Return how many standard deviations the observed drop lies above ``d``, the variance taken at ``d``."""
    n, away = counts.examples, counts.lost - counts.gained - counts.examples * d
    linear = -counts.lost - counts.gained + (2 * n - counts.lost + counts.gained) * d
    gained = (math.sqrt(max(linear**2 + 8 * n * counts.gained * d * (1 - d), 0.0)) - linear) / (4 * n)
    variance = n * (2 * gained + d * (1 - d))
    return away / math.sqrt(variance) if variance > 0 else math.copysign(1e6, away) if away else 0.0


def ratio(counts: Pairs, z: float = Z) -> Estimate:
    """Estimate the candidate's share by the reference's (D. G. Bonett, R. M. Price, J. Educ. Behav. Stat. 31, 2006)."""
    own, other = counts.both + counts.gained, counts.both + counts.lost
    right = counts.both + counts.lost + counts.gained
    if other == 0:
        raise ValueError("the reference has no right answer, so there is no ratio")
    together = math.sqrt((counts.lost + counts.gained + 2) / ((own + 1) * (other + 1)))
    alone = sum(math.sqrt((1 - (k + 1) / (right + 2)) / (k + 1)) for k in (own, other))
    (own_low, own_high), (low, high) = (_wilson(k, right, z * together / alone) for k in (own, other))
    kept = own / other
    return Estimate(value=kept, low=min(own_low / high, kept), high=max(own_high / low, kept))


def chance_kept(counts: Pairs, share: float) -> float:
    """One-sided p-value that at least this share is kept: the level of the interval of ``ratio`` that ends there."""
    from scipy.optimize import brentq
    from scipy.special import ndtr

    def end(z: float) -> float:
        interval = ratio(counts, abs(z))
        return (interval.high if z >= 0 else interval.low) - share

    if end(-WIDEST) >= 0 or end(WIDEST) <= 0:
        return float(ndtr(WIDEST if end(0.0) >= 0 else -WIDEST))
    return float(ndtr(-brentq(end, -WIDEST, WIDEST)))


def mcnemar(lost: int, gained: int) -> float:
    """Exact one-sided p-value that losses are no likelier than gains (Q. McNemar, 1947); 1 without a change."""
    from scipy.stats import binom

    return float(binom.sf(lost - 1, lost + gained, 0.5)) if lost + gained else 1.0


def holm(p_values: list[float]) -> list[float]:
    """Adjust p-values for each other (S. Holm, 1979): below alpha, all are false with a chance of alpha at most."""
    order, adjusted, largest = np.argsort(p_values, kind="stable"), [1.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def detectable(examples: int, gained: int = 0, alpha: float = ALPHA, power: float = POWER) -> float | None:
    """Return the smallest drop, as a share, that McNemar's test sees with the given power; None if it sees none.

    ``gained``: examples that the candidate gained, and as many more than the drop that it lost: the more answers
    change either way, the less a drop shows.
    """
    if _power(examples, gained, 1.0 - gained / examples, alpha) < power:
        return None
    low, high = 0.0, 1.0 - gained / examples
    while high - low > 0.01 / examples:  # a hundredth of an example
        middle = (low + high) / 2
        low, high = (low, middle) if _power(examples, gained, middle, alpha) >= power else (middle, high)
    return high


def least_examples(margin: float, z: float = Z) -> int:
    """Return how many examples it takes for a drop up to ``margin`` to be excluded when no answer changes.

    Tango's upper limit with no change is z²/(n + z²).
    """
    return math.ceil(z * z * (1 - margin) / margin)


def _power(examples: int, gained: int, drop: float, alpha: float) -> float:
    """Chance that McNemar's test rejects, losses and gains drawn independently."""
    from scipy.stats import binom

    few = np.arange(examples + 1) if gained else np.arange(1)
    chances = binom.pmf(few, examples, gained / examples)
    seen = 0.0
    for g, chance in zip(few, chances, strict=True):
        if chance > 1e-7:  # all that is left out is under 1e-7 times the examples
            seen += chance * float(binom.sf(_critical(int(g), alpha) - 1, examples, drop + gained / examples))
    return seen


def _critical(gained: int, alpha: float) -> int:
    """Fewest losses beside so many gains that the test rejects."""
    lost = gained
    while mcnemar(lost, gained) > alpha:
        lost += 1
    return lost


def _wilson(hits: int, examples: int, z: float) -> tuple[float, float]:
    middle, spread = 2 * hits + z * z, z * math.sqrt(z * z + 4 * hits * (1 - hits / examples))
    return (middle - spread) / (2 * (examples + z * z)), (middle + spread) / (2 * (examples + z * z))
