from __future__ import annotations

import time

import numpy as np
import pytest

from dlc.errors import DataError, RecipeError
from dlc.harness import statistics
from dlc.harness.accuracy import METRICS
from dlc.manifest import Estimate
from dlc.types import Floats

MEAN = METRICS["top1"].statistic
SPEARMAN = METRICS["spearman"].statistic


def hits(n: int, share: float, rng: np.random.Generator) -> Floats:
    return (rng.random((n, 1)) < share).astype(np.float64)


def test_estimates_hold_their_definitions(rng: np.random.Generator) -> None:
    reference, candidate = hits(400, 0.9, rng), hits(400, 0.8, rng)
    result = statistics.paired(reference, candidate, MEAN, rng=rng)
    a, b = 100 * reference.mean(), 100 * candidate.mean()
    assert (result.value.value, result.retention.value, result.drop.value) == (b, b / a, a - b)
    for estimate in (result.value, result.retention, result.drop):
        assert estimate.low < estimate.value < estimate.high


def test_same_rows_give_zero_width(rng: np.random.Generator) -> None:
    rows = hits(300, 0.9, rng)
    result = statistics.paired(rows, rows.copy(), MEAN, rng=rng)
    assert (result.retention.low, result.retention.value, result.retention.high) == (1, 1, 1)
    assert (result.drop.low, result.drop.high) == (0, 0)
    assert result.value.low < result.value.high


@pytest.mark.parametrize("n", [1, 50])
def test_all_right_gives_zero_width(n: int, rng: np.random.Generator) -> None:
    value = statistics.metric(np.ones((n, 1)), MEAN, rng=rng)
    assert (value.low, value.value, value.high) == (100, 100, 100)


def test_pairing_narrows(rng: np.random.Generator) -> None:
    """Two models that fail on the same examples differ less than two that fail on different ones."""
    reference = hits(1000, 0.8, rng)
    candidate = reference.copy()
    candidate[np.flatnonzero(reference)[:5]] = 0
    other = rng.permutation(candidate)
    alike, unlike = (statistics.paired(reference, c, MEAN, rng=rng).retention for c in (candidate, other))
    assert alike.high - alike.low < (unlike.high - unlike.low) / 3


def test_same_seed_same_interval(rng: np.random.Generator) -> None:
    reference, candidate = hits(100, 0.9, rng), hits(100, 0.8, rng)
    first, second = (
        statistics.paired(reference, candidate, MEAN, rng=np.random.default_rng(3)) for _ in range(2)
    )  # fmt: skip
    assert first == second


def covers(trials: int, expected: float = 0.95) -> tuple[float, float]:
    """Range that 95 % coverage, seen through so many trials, stays in with probability 0.998 (3.09 sigma)."""
    sigma = (expected * (1 - expected) / trials) ** 0.5
    return expected - 3.09 * sigma, min(1.0, expected + 3.09 * sigma)


def test_coverage_of_metric_and_retention(rng: np.random.Generator) -> None:
    """Of 200 worlds with a known truth, 95 % of the intervals hold it."""
    trials, held = 200, np.zeros(3)
    for _ in range(trials):
        reference = hits(600, 0.9, rng)
        candidate = np.where(rng.random((600, 1)) < 0.05, hits(600, 0.5, rng), reference)
        truth = 100 * (0.95 * 0.9 + 0.05 * 0.5)  # of the candidate; the reference has 90
        result = statistics.paired(reference, candidate, MEAN, rng=rng, resamples=300)
        pairs = ((result.value, truth), (result.retention, truth / 90), (result.drop, 90 - truth))
        held += [e.low <= t <= e.high for e, t in pairs]
    low, high = covers(trials)
    assert (held / trials >= low).all(), held / trials
    assert (held / trials <= high).all(), held / trials


def test_spearman_of_sts_benchmark_size_is_quick(rng: np.random.Generator) -> None:
    truth = rng.standard_normal(1379)
    a = np.stack([truth + rng.standard_normal(1379), truth], axis=1)
    b = np.stack([a[:, 0] + 0.05 * rng.standard_normal(1379), truth], axis=1)
    start = time.process_time()
    result = statistics.paired(a, b, SPEARMAN, rng=rng)
    assert time.process_time() - start < 3
    assert result.retention.low < result.retention.value < result.retention.high


def test_reference_that_scores_nothing_is_named(rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match=r"reference scores 0 .* labels"):
        statistics.paired(np.zeros((5, 1)), np.ones((5, 1)), MEAN, rng=rng)


def test_statistic_that_is_no_number_is_named(rng: np.random.Generator) -> None:
    with pytest.raises(RecipeError, match="statistic gives nan on 5 examples"):
        statistics.metric(np.ones((5, 1)), lambda _: float("nan"), rng=rng)


def test_a_resample_without_a_score_counts_as_zero(rng: np.random.Generator) -> None:
    """Two examples, one hit: a quarter of the resamples leave the reference with nothing."""
    rows = np.array([[1.0], [0.0]])
    retention = statistics.paired(rows, rows.copy(), MEAN, rng=rng).retention
    assert (retention.low, retention.value, retention.high) == (0, 1, 1)


@pytest.mark.parametrize("hits", [False, True])
def test_p_values_invert_the_intervals(hits: bool, rng: np.random.Generator) -> None:
    """At an end of a 95 % interval the one-sided p-value is 2.5 %: of hits exactly, else up to a draw of 1,000."""
    score = 5 + rng.standard_normal((300, 1))
    both = [score, score - 0.1 + 0.2 * rng.standard_normal((300, 1))]
    a, b = ((each > 4.5).astype(np.float64) if hits else each for each in both)
    found = statistics.paired(a, b, lambda rows: float(rows.mean()), rng=rng)
    assert (found.counts is not None) == hits
    bound = 1e-6 if hits else 0.002
    assert found.chance_kept(found.retention.high) == pytest.approx(0.025, abs=bound)
    assert found.chance_within(found.drop.low) == pytest.approx(0.025, abs=bound)


def test_the_record_has_the_p_value_of_its_gate(rng: np.random.Generator) -> None:
    a, b = np.ones((100, 1)), np.ones((100, 1))
    b[:7] = 0
    asked = [(None, None), (0.985, None), (None, 1.5), (0.5, 1.5)]
    mean = METRICS["top1"].statistic
    none, share, drop, both = (
        statistics.accuracy("top1", a, b, mean, rng=rng, keep=keep, lose=lose).chance for keep, lose in asked
    )
    assert none is None
    assert share != drop == both


def test_no_examples(rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match="no example to score"):
        statistics.metric(np.empty((0, 1)), MEAN, rng=rng)


def test_lengths_must_pair(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="5 and 4 examples"):
        statistics.paired(np.ones((5, 1)), np.ones((4, 1)), MEAN, rng=rng)


def test_of_an_error_less_is_better() -> None:
    reference, candidate = np.full((40, 1), 2.0), np.full((40, 1), 2.5)
    rng = np.random.default_rng(0)
    mean = METRICS["mae"].statistic
    worse = statistics.paired(reference, candidate, mean, rng=rng, higher_is_better=False)
    assert (worse.value.value, worse.retention.value, worse.drop.value) == (2.5, 0.8, 0.5)
    better = statistics.paired(candidate, reference, mean, rng=rng, higher_is_better=False)
    assert (better.retention.value, better.drop.value) == (1.25, -0.5)


def test_without_an_error_all_is_kept() -> None:
    """An error of 0 is no reason to stop, as a score of 0 is: the reference may be perfect."""
    none, some = np.zeros((40, 1)), np.ones((40, 1))
    rng, mean = np.random.default_rng(0), METRICS["mae"].statistic
    assert statistics.paired(none, none, mean, rng=rng, higher_is_better=False).retention.value == 1
    assert statistics.paired(none, some, mean, rng=rng, higher_is_better=False).retention.value == 0


def test_a_resample_without_an_error_rate_is_left_out() -> None:
    """Of four utterances many a resample has no pair of one speaker, and so no rate: that is not a rate of 0."""
    eer = METRICS["eer"]
    degrees = np.deg2rad([0, 60, 30, 90])
    rows = eer.rows(np.stack([np.cos(degrees), np.sin(degrees)], axis=1), np.array([0, 0, 1, 1]))
    found = statistics.paired(rows, rows, eer.statistic, rng=np.random.default_rng(0), higher_is_better=False)
    assert found.retention == Estimate(value=1.0, low=1.0, high=1.0)
    assert found.value.low > 0
    alone = statistics.metric(rows, eer.statistic, rng=np.random.default_rng(0), higher_is_better=False)
    assert alone == found.value


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_record_says_which_way_is_better(higher_is_better: bool) -> None:
    rows, mean = np.full((40, 1), 2.0), METRICS["mae"].statistic
    record = statistics.accuracy(
        "mae", rows, rows, mean, rng=np.random.default_rng(0), higher_is_better=higher_is_better
    )
    assert record.higher_is_better is higher_is_better
