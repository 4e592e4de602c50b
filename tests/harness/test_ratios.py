"""Trimmed means of logarithms against scipy's tests, and how often their intervals hold the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from dlc.harness.ratios import BLOCKS, ITSELF, TRIM, fastest, ratio, shift, slower, spread
from dlc.types import Floats
from tests.harness.test_statistics import covers

FEW, OTHER = (0.11, 0.08, 0.12, 0.1), (0.01, -0.02, 0.0, 0.02)
"""Too few to be trimmed."""
DISTURBED = (0.11, 0.08, 0.12, 0.1, 0.09, 0.6, 0.1), (0.01, -0.02, 0.0, 0.02, -0.01, 0.01, -0.3, 0.0)


def test_few_have_student_s_interval() -> None:
    from scipy import stats

    found = ratio(FEW)
    low, high = stats.t.interval(0.95, 3, np.mean(FEW), stats.sem(FEW))
    assert (found.value, found.low, found.high) == pytest.approx(tuple(np.exp((np.mean(FEW), low, high))))


def test_one_disturbed_sitting_of_seven_counts_as_its_neighbour() -> None:
    kept = (0.08, 0.09, 0.1, 0.1, 0.1, 0.11, 0.12)
    assert ratio((*kept[:-1], 0.9)) == ratio(kept)
    assert spread((0.01, -0.02, 0.01, 0.0, 0.01, 0.01, 0.9)) == spread((0.01, -0.02, 0.01, 0.0, 0.01, 0.01, 0.02))
    assert spread((0.03, -0.04)) == pytest.approx(0.05 / np.sqrt(2))  # too few
    assert spread(()) == 0


@pytest.mark.parametrize("limit", [1.0, 1.05])
@pytest.mark.parametrize(("now", "before", "trim"), [(FEW, OTHER, 0), (*DISTURBED, TRIM)])
def test_two_runs_are_compared_by_yuen_and_welch(
    now: tuple[float, ...], before: tuple[float, ...], trim: float, limit: float
) -> None:
    from scipy import stats

    found, allowed = shift(now, before, same=False, limit=limit), np.add(before, np.log(limit))
    stated = stats.ttest_ind(now, allowed, equal_var=False, trim=trim, alternative="greater")
    assert found.slower == pytest.approx(stated.pvalue)
    low, high = stats.ttest_ind(now, before, equal_var=False, trim=trim).confidence_interval()
    assert (found.factor.low, found.factor.high) == pytest.approx((np.exp(low), np.exp(high)))


def test_the_same_sittings_are_compared_in_pairs() -> None:
    from scipy import stats

    found, stated = shift(FEW, OTHER, same=True), stats.ttest_rel(FEW, OTHER, alternative="greater")
    assert found.slower == pytest.approx(stated.pvalue)
    assert slower(tuple(np.subtract(FEW, OTHER)), 1.0) == found.slower
    assert slower((), 1.0) is None


@pytest.mark.parametrize(("same", "freedom", "error"), [(True, 3, 0.1), (False, 6, 0.1 * np.sqrt(2))])
def test_no_mean_is_steadier_than_a_against_a(same: bool, freedom: int, error: float) -> None:
    """A floor of 0.2 in one sitting is one of 0.1 in the mean of four, on either side."""
    from scipy import stats

    found = shift((0.1,) * 4, (0.0,) * 4, same=same, floor=0.2)
    assert np.log(found.factor.high / found.factor.value) == pytest.approx(stats.t.ppf(0.975, freedom) * error)
    assert found.slower == pytest.approx(stats.t.sf(0.1 / error, freedom))


@pytest.mark.parametrize(("now", "p"), [((0.0, 0.0), 1.0), ((0.1, 0.1), 0.0)])
def test_logs_without_spread(now: tuple[float, ...], p: float) -> None:
    for same in (True, False):
        assert shift(now, (0.0, 0.0), same=same).slower == p


def test_one_sitting_tells_nothing() -> None:
    for same, before in ((True, (0.0,)), (False, (0.0, 0.1, 0.2))):
        found = shift((0.5,), before, same=same)
        assert found.slower == 1
        assert (found.factor.low, found.factor.high) == pytest.approx((np.exp(-700), np.exp(700)))


def test_a_model_against_itself_is_exactly_one() -> None:
    times = np.arange(900, 960)
    assert ratio((0.0,) * 7, floor=0.1) == fastest(times, times) == ITSELF


def test_rounds_are_compared_by_the_fastest_of_each_block() -> None:
    times = np.arange(1, 4 * BLOCKS + 1)
    found = fastest(2 * times, times)
    assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))
    assert fastest(np.array([3]), np.array([2])).value == pytest.approx(1.5)


@pytest.mark.parametrize("lengths", [(3, 2), (0, 0)])
def test_rounds_must_pair(lengths: Sequence[int]) -> None:
    with pytest.raises(ValueError, match=f"{lengths[0]} and {lengths[1]} rounds"):
        fastest(*(np.ones(n) for n in lengths))


@pytest.mark.parametrize("memory", [0.0, 0.7], ids=["independent rounds", "bursts of other work"])
def test_coverage_of_the_latency_ratio(memory: float, rng: np.random.Generator) -> None:
    """Noise is lognormal, partly common to both models of a round, and may last several rounds (AR(1))."""
    trials, rounds, held = 1000, 200, 0

    def noise() -> Floats:
        steps = rng.standard_normal((rounds + 50, 1))[:, 0]
        for i in range(1, len(steps)):
            steps[i] = memory * steps[i - 1] + (1 - memory**2) ** 0.5 * steps[i]
        return steps[50:]

    for _ in range(trials):
        common = noise()
        a, b = (1e6 * np.exp(0.2 * common + 0.1 * noise()) for _ in range(2))
        found = fastest(0.8 * a, b)
        held += found.low <= 0.8 <= found.high
    low, high = covers(trials)
    assert low <= held / trials <= high, held / trials
