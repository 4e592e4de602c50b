"""How far a metric fell behind another measurement of it, how sure that is, and how small a drop would be seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dlc.harness import proportions
from dlc.harness.accuracy import Metric
from dlc.harness.bca import Draws
from dlc.harness.proportions import ALPHA, POWER, Pairs
from dlc.harness.statistics import Drawn, independent
from dlc.manifest import Estimate
from dlc.types import Floats


@dataclass(frozen=True, slots=True)
class Behind:
    """A drop with its interval, in the metric's unit; above 0 is worse.

    ``counts`` and ``factor``: where it is of right and wrong answers, paired; else ``draws`` has its bootstrap.
    """

    drop: Estimate
    examples: int
    draws: Draws | None = None
    counts: Pairs | None = None
    factor: float = 1.0

    def chance(self, bound: float = 0.0) -> float:
        """One-sided p-value that the drop is no larger than ``bound``."""
        if self.counts is not None:
            if bound == 0:
                return proportions.mcnemar(self.counts.lost, self.counts.gained)
            return proportions.chance_at_most(self.counts, bound / self.factor)
        assert self.draws is not None
        return self.draws.chance_below(bound)

    @property
    def unseen(self) -> float | None:
        """Smallest drop that is told from none with a power of 95 %; None where the data cannot tell."""
        if self.counts is not None:
            found = proportions.detectable(self.counts.examples, min(self.counts.gained, self.counts.lost))
            return None if found is None else self.factor * found
        from scipy.special import ndtri

        width = self.drop.high - self.drop.low
        return float(width / (2 * proportions.Z) * (ndtri(1 - ALPHA) + ndtri(POWER))) or None

    @property
    def least(self) -> float:
        """Smallest margin that so many examples can show to be held: where not one answer changes."""
        return self.factor * proportions.Z**2 / (self.examples + proportions.Z**2) if self.counts else 0.0


def behind(reference: Floats, candidate: Floats, metric: Metric, rng: np.random.Generator) -> Behind:
    """Compare two models on the same examples."""
    counts, factor = proportions.pairs(reference, candidate), None
    if counts is not None and metric.higher_is_better:
        factor = proportions.scale(metric.statistic, reference, candidate)
    if counts is not None and factor is not None:
        share = proportions.difference(counts)
        drop = Estimate(value=factor * share.value, low=factor * share.low, high=factor * share.high)
        return Behind(drop, counts.examples, counts=counts, factor=factor)
    drawn = Drawn.of(reference, candidate, metric.statistic, rng=rng, higher_is_better=metric.higher_is_better).drop
    return Behind(drawn.interval(), len(candidate), drawn)


def apart(reference: Floats, candidate: Floats, metric: Metric, rng: np.random.Generator) -> Behind:
    """Compare two models, each on examples of its own: the data changed in between."""
    draws = independent(reference, candidate, metric.statistic, rng=rng, higher_is_better=metric.higher_is_better)
    return Behind(draws.interval(), min(len(reference), len(candidate)), draws)
