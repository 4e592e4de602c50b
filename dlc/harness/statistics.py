"""Point estimates with 95 % intervals, from examples or from rounds of timing; pure functions on arrays.

Models are compared in pairs: each resample draws the same examples (or the same rounds) for both, so what the two have
in common, hard examples or a busy machine, cancels. Of right and wrong answers the intervals are score intervals
(``proportions``), of every other metric those of the bias-corrected and accelerated bootstrap (``bca``), of latencies
percentiles of the bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from dlc.errors import DataError, RecipeError, raised_at
from dlc.harness import proportions
from dlc.harness.bca import Draws
from dlc.harness.proportions import Pairs
from dlc.manifest import Accuracy, Estimate
from dlc.types import Array, Floats

RESAMPLES = 1000
TAILS = (2.5, 97.5)
BEYOND = 10
"""Samples that must lie beyond a percentile: their count then strays by a third (one standard deviation)."""
GROUPS = 200
"""Most values that the acceleration of an interval is estimated from."""

Statistic = Callable[[Floats], float]
"""Rows per example [n, k] to the metric."""


@dataclass(frozen=True, slots=True)
class Paired:
    """A candidate's metric beside the reference's on the same examples."""

    value: Estimate
    retention: Estimate
    drop: Estimate
    drawn: Drawn = field(compare=False, repr=False)
    counts: Pairs | None = None
    factor: float = 1.0

    def chance_kept(self, share: float) -> float:
        """One-sided p-value that at least this share of the reference's metric is kept."""
        if self.counts is not None:
            return proportions.chance_kept(self.counts, share)
        return 1.0 - self.drawn.retention.chance_below(share)

    def chance_within(self, drop: float) -> float:
        """One-sided p-value that it fell behind by no more than this, in the metric's unit."""
        if self.counts is not None:
            return proportions.chance_at_most(self.counts, drop / self.factor)
        return self.drawn.drop.chance_below(drop)


def metric(
    rows: Floats, statistic: Statistic, *, rng: np.random.Generator, resamples: int = RESAMPLES,
    higher_is_better: bool = True,
) -> Estimate:  # fmt: skip
    """Estimate a metric from its rows per example [n, k].

    A resample without a score counts as 0 where higher is better; of an error that would flatter, and it is left out.
    """
    indices = _resampled(len(rows), resamples, rng)
    value = score(statistic, rows)
    draws = np.array([_call(statistic, rows[i]) for i in indices])
    left_out = np.array([_call(statistic, rows[i]) for i in _jackknife(len(rows), rng)])
    sound = _sound(draws) if higher_is_better else np.append(draws[np.isfinite(draws)], value)
    return Draws(value, sound, left_out).interval()


def paired(
    reference: Floats, candidate: Floats, statistic: Statistic, *, rng: np.random.Generator, resamples: int = RESAMPLES,
    higher_is_better: bool = True,
) -> Paired:  # fmt: skip
    """Estimate a candidate's metric, its share of the reference's (retention), and how far it fell behind (drop).

    A resample on which a model has no score, or the reference none above 0, supports nothing: it counts as 0 there.
    Of an error, where lower is better, the reference's is divided by the candidate's, and the drop is what was added.
    """
    drawn = Drawn.of(reference, candidate, statistic, rng=rng, resamples=resamples, higher_is_better=higher_is_better)
    counts = proportions.pairs(reference, candidate)
    factor = proportions.scale(statistic, reference, candidate) if counts and higher_is_better else None
    if counts and factor and (counts.lost or counts.gained):
        drop = _times(proportions.difference(counts), factor)
        return Paired(drawn.value.interval(), proportions.ratio(counts), drop, drawn, counts, factor)
    return Paired(drawn.value.interval(), drawn.retention.interval(), drawn.drop.interval(), drawn)


@dataclass(frozen=True, slots=True)
class Drawn:
    """The bootstrap of a candidate beside its reference."""

    value: Draws
    retention: Draws
    drop: Draws

    @classmethod
    def of(
        cls, reference: Floats, candidate: Floats, statistic: Statistic, *, rng: np.random.Generator,
        resamples: int = RESAMPLES, higher_is_better: bool = True,
    ) -> Drawn:  # fmt: skip
        """Resample both on the same examples."""
        if len(reference) != len(candidate):
            raise ValueError(f"{len(reference)} and {len(candidate)} examples cannot be paired")
        indices = _resampled(len(reference), resamples, rng)
        a, b = score(statistic, reference), score(statistic, candidate)
        if higher_is_better and a <= 0:
            raise DataError(
                f"the reference scores {a:g} on the task's metric, so no share of it can be kept; check that the "
                f"labels belong to these examples and that the data is preprocessed as in training"
            )
        draws = _scores(reference, candidate, statistic, indices)  # [resamples, 2]
        left_out = _scores(reference, candidate, statistic, _jackknife(len(reference), rng))  # [groups, 2]
        of = _behind if higher_is_better else _errors
        (value, retention, drop), jackknife = of(draws, (a, b)), of(left_out, (a, b))
        point = of(np.array([(a, b)]), (a, b))
        return cls(*(
            Draws(float(p[-1]), d, j) for p, d, j in zip(point, (value, retention, drop), jackknife, strict=True)
        ))  # fmt: skip


def independent(
    reference: Floats, candidate: Floats, statistic: Statistic, *, rng: np.random.Generator,
    resamples: int = RESAMPLES, higher_is_better: bool = True,
) -> Draws:  # fmt: skip
    """Resample how far a candidate fell behind, each model on examples of its own."""
    sides = [
        [score(statistic, rows), *(_call(statistic, rows[i]) for i in _resampled(len(rows), resamples, rng))]
        for rows in (reference, candidate)
    ]
    before, after = map(np.array, sides)
    drops: Floats = before - after if higher_is_better else after - before
    return Draws(float(drops[0]), _sound(drops[1:]), np.empty(0))


def _behind(scores: Floats, _: tuple[float, float]) -> tuple[Floats, Floats, Floats]:
    scores = _sound(scores)
    scored = scores[:, 0] > 0
    shares = np.where(scored, scores[:, 1] / np.where(scored, scores[:, 0], 1.0), 0.0)
    return scores[:, 1], shares, scores[:, 0] - scores[:, 1]


def _errors(scores: Floats, whole: tuple[float, float]) -> tuple[Floats, Floats, Floats]:
    """Compare two errors. A resample without a score, say with no pair to verify, says nothing and is left out."""
    scored = scores[np.isfinite(scores).all(axis=1)]
    before, after = np.concatenate([scored, [whole]]).T  # the last: all examples
    shares = np.where(after > 0, before / np.where(after > 0, after, 1.0), 1.0)  # without an error all is kept
    return after, shares, after - before


def accuracy(
    name: str, reference: Floats, candidate: Floats, statistic: Statistic, *, rng: np.random.Generator,
    higher_is_better: bool = True, keep: float | None = None, lose: float | None = None,
) -> Accuracy:  # fmt: skip
    """Record a candidate's metric for the manifest, and the p-value of its gate.

    The gate asks it to ``keep`` a share of the reference's metric, or to ``lose`` no more than that, which goes first.
    """
    result = paired(reference, candidate, statistic, rng=rng, higher_is_better=higher_is_better)
    chance = None
    if lose is not None or keep is not None:
        chance = result.chance_within(lose) if lose is not None else result.chance_kept(keep or 0.0)
    return Accuracy(
        metric=name, higher_is_better=higher_is_better, value=result.value, retention=result.retention,
        drop=result.drop, examples=len(candidate), chance=chance,
    )  # fmt: skip


def percentile(samples: Floats, percent: float) -> float | None:
    """Return a percentile, None with fewer than 10 samples beyond it: p10 and p90 need 100, p99 1,000."""
    beyond = len(samples) * min(percent, 100 - percent) / 100
    return float(np.percentile(samples, percent)) if beyond >= BEYOND else None


def _scores(reference: Floats, candidate: Floats, statistic: Statistic, indices: Iterable[Array]) -> Floats:
    return np.array([(_call(statistic, reference[i]), _call(statistic, candidate[i])) for i in indices])


def _resampled(n: int, resamples: int, rng: np.random.Generator) -> Iterator[Array]:
    """Yield index arrays [n] drawn with replacement."""
    if n == 0:
        raise DataError("there is no example to score")
    return (rng.integers(0, n, n) for _ in range(resamples))


def _jackknife(n: int, rng: np.random.Generator) -> Iterator[Array]:
    """Yield all indices but those of one of at most ``GROUPS`` groups of about equal size, chosen at random."""
    group = rng.permutation(n) % min(n, GROUPS)
    return (np.flatnonzero(group != g) for g in range(min(n, GROUPS) if n > 1 else 0))


def score(statistic: Statistic, rows: Floats) -> float:
    """Apply a metric to rows [n, k]; RecipeError where it gives no number."""
    value = _call(statistic, rows)
    if not np.isfinite(value):
        raise RecipeError(f"the metric's statistic gives {value} on {len(rows)} examples; it must give a number")
    return value


def _call(statistic: Statistic, rows: Floats) -> float:
    try:
        return float(statistic(rows))
    except Exception as error:
        raise RecipeError(
            f"the metric's statistic fails on {len(rows)} examples: {raised_at(error)}{type(error).__name__}: {error}"
        ) from error


def _sound(draws: Floats) -> Floats:
    return np.nan_to_num(draws, nan=0.0, posinf=0.0, neginf=0.0)


def _times(estimate: Estimate, factor: float) -> Estimate:
    return Estimate(value=factor * estimate.value, low=factor * estimate.low, high=factor * estimate.high)


def _estimate(value: float, draws: Floats) -> Estimate:
    """Percentile interval; widened to hold the estimate itself, which a skewed resampling can leave outside."""
    low, high = np.percentile(draws, TAILS)
    return Estimate(value=float(value), low=min(float(low), float(value)), high=max(float(high), float(value)))
