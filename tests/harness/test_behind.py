"""How far one model is behind another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dlc.harness import statistics
from dlc.harness.accuracy import METRICS
from dlc.harness.behind import apart, behind
from dlc.types import Floats

TOP1, SPEARMAN, MAE = (METRICS[name] for name in ("top1", "spearman", "mae"))


def hits(wrong: int, n: int = 1000) -> Floats:
    rows = np.ones((n, 1))
    rows[:wrong] = 0
    return rows


def ranks(rng: np.random.Generator, noise: float, n: int = 400) -> tuple[Floats, Floats]:
    target = rng.standard_normal(n)
    score = target + rng.standard_normal(n)
    return tuple(np.stack([s, target], axis=1) for s in (score, score + noise * rng.standard_normal(n)))  # type: ignore[return-value]


def test_right_answers_are_counted(rng: np.random.Generator) -> None:
    found = behind(hits(50), hits(70), TOP1, rng)
    assert found.drop.value == pytest.approx(2.0)
    assert found.chance() == pytest.approx(2.0**-20)
    assert found.chance(found.drop.low) == pytest.approx(0.025, rel=1e-4)
    assert found.unseen == pytest.approx(0.913, abs=0.002)
    assert found.least == pytest.approx(0.3827, abs=1e-3)


def test_any_other_metric_is_resampled(rng: np.random.Generator) -> None:
    reference, candidate = ranks(rng, 1.0)
    found = behind(reference, candidate, SPEARMAN, rng)
    assert found.drop.value == SPEARMAN.statistic(reference) - SPEARMAN.statistic(candidate)
    assert found.drop.low < found.drop.value < found.drop.high
    assert found.chance() < 0.01
    assert found.unseen is not None
    # (1.645 + 1.645) standard errors, of which the interval has 2 x 1.96
    assert found.unseen == pytest.approx((found.drop.high - found.drop.low) * 3.29 / 3.92, rel=0.01)
    assert found.least == 0


def test_a_statistic_that_fails_on_one_row_is_resampled(rng: np.random.Generator) -> None:
    """No example that is measured stands alone, so that a statistic may ask for two."""

    def mean_of_two_or_more(rows: Floats) -> float:
        if len(rows) < 2:
            raise ValueError("one row is no sample")
        return float(rows.mean())

    found = behind(hits(50), hits(70), replace(TOP1, statistic=mean_of_two_or_more), rng)
    assert found.counts is None
    assert found.drop.value == pytest.approx(0.02)
    assert found.drop.low < 0.02 < found.drop.high
    paired = statistics.paired(hits(50), hits(70), mean_of_two_or_more, rng=rng)
    assert paired.drop.value == pytest.approx(0.02)


def test_an_error_is_behind_where_it_grew(rng: np.random.Generator) -> None:
    rows = rng.uniform(1, 2, (200, 1))
    assert behind(rows, rows + 0.5, MAE, rng).drop.value == pytest.approx(0.5)
    assert apart(rows, rows + 0.5, MAE, rng).drop.value == pytest.approx(0.5)


def test_apart_there_is_no_pairing(rng: np.random.Generator) -> None:
    """Two proportions of 5 and 7 % differ by 2 ± 1.96 sqrt(.05·.95 + .07·.93)/sqrt(1000) points."""
    found = apart(hits(50), hits(70), TOP1, rng)
    half = 196 * np.sqrt((0.05 * 0.95 + 0.07 * 0.93) / 1000)
    assert found.drop.value == pytest.approx(2.0)
    assert (found.drop.high - found.drop.low) / 2 == pytest.approx(half, rel=0.1)  # 1,000 draws
    assert 0.01 < found.chance() < 0.06


def test_nothing_changed_is_no_evidence(rng: np.random.Generator) -> None:
    reference, _ = ranks(rng, 0.0)
    found = behind(reference, reference.copy(), SPEARMAN, rng)
    assert (found.drop.low, found.drop.high) == (0, 0)
    assert found.chance() > 0.4
    assert found.unseen is None
