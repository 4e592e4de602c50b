"""Score intervals, the exact test, and what it can see: against their definitions and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dlc.harness import proportions
from dlc.harness.accuracy import METRICS
from dlc.harness.proportions import Pairs
from dlc.types import Floats

TOP1 = METRICS["top1"].statistic
CHANGED = Pairs(both=900, lost=30, gained=10, neither=60)


def column(*hits: int) -> Floats:
    return np.array(hits, np.float64).reshape(-1, 1)


def test_pairs_are_counted() -> None:
    assert proportions.pairs(column(1, 1, 0, 0, 1), column(1, 0, 1, 0, 1)) == Pairs(2, 1, 1, 1)
    assert Pairs(2, 1, 1, 1).examples == 5


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        (np.array([[0.5]]), column(1)),
        (column(1), np.array([[2.0]])),
        (np.ones((2, 2)), np.ones((2, 2))),
        (column(1, 0), column(1)),
        (np.ones((0, 1)), np.ones((0, 1))),
    ],
)
def test_rows_that_are_no_hits(reference: Floats, candidate: Floats) -> None:
    assert proportions.pairs(reference, candidate) is None


def test_only_a_multiple_of_the_mean_is_a_proportion() -> None:
    rows = column(1, 0, 1, 1, 0, 1, 1)
    assert proportions.scale(TOP1, rows) == 100
    assert proportions.scale(lambda r: float(r.mean()), rows) == 1
    assert proportions.scale(lambda r: float(r.mean()) ** 2, rows) is None
    assert proportions.scale(lambda r: 1 - float(r.mean()), rows) is None


def test_limits_of_the_drop_solve_their_equation() -> None:
    """At a limit the score is z, with the gains' share at its maximum likelihood given that drop (Tango, eq. 5)."""
    found, n = proportions.difference(CHANGED), CHANGED.examples
    assert found.value == 0.02
    for limit, z in ((found.low, proportions.Z), (found.high, -proportions.Z)):
        grid = np.linspace(1e-9, 0.1, 2_000_001)  # of the gains' share
        likelihood = (
            30 * np.log(grid + limit) + 10 * np.log(grid) + 960 * np.log(np.maximum(1 - 2 * grid - limit, 1e-300))
        )
        gained = grid[likelihood.argmax()]
        score = (0.02 - limit) * n / math.sqrt(n * (2 * gained + limit * (1 - limit)))
        assert score == pytest.approx(z, abs=2e-3)  # the grid's step of 5e-8 moves the score by under 1e-3


@pytest.mark.parametrize("n", [1, 20, 599])
def test_no_change_has_a_limit_of_its_own(n: int) -> None:
    found, square = proportions.difference(Pairs(n, 0, 0, 0)), proportions.Z**2
    assert found.value == 0
    assert found.high == pytest.approx(square / (n + square), rel=1e-6)  # of the root's search
    assert found.low == pytest.approx(-found.high, rel=1e-6)


@pytest.mark.parametrize(("counts", "value"), [(Pairs(0, 5, 0, 0), 1.0), (Pairs(0, 0, 5, 0), -1.0)])
def test_all_changed(counts: Pairs, value: float) -> None:
    found = proportions.difference(counts)
    assert found.value == value
    assert -1 <= found.low <= found.high <= 1
    assert found.high - found.low < 1


def test_share_and_ratio_hold_their_values() -> None:
    found = proportions.share(599, 599)
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(599 / (599 + proportions.Z**2))
    kept = proportions.ratio(CHANGED)
    assert kept.value == 910 / 930
    assert kept.low < kept.value < kept.high < 1
    with pytest.raises(ValueError, match="no right answer"):
        proportions.ratio(Pairs(0, 0, 3, 3))


def test_the_p_value_inverts_the_interval() -> None:
    found = proportions.difference(CHANGED)
    assert proportions.chance_at_most(CHANGED, found.low) == pytest.approx(0.025, rel=1e-6)
    assert proportions.chance_at_most(CHANGED, found.high) == pytest.approx(0.975, rel=1e-6)


@pytest.mark.parametrize("z", [-2.0, -0.3, 0.5, proportions.Z, 3.0])
@pytest.mark.parametrize("counts", [CHANGED, Pairs(93, 7, 0, 0), Pairs(40, 2, 5, 3)])
def test_the_p_value_of_a_share_inverts_its_interval(counts: Pairs, z: float) -> None:
    """Where the interval of z standard deviations ends, the one-sided p-value is that of z: brentq's xtol is 2e-12."""
    from scipy.special import ndtr

    interval = proportions.ratio(counts, abs(z))
    share = interval.high if z > 0 else interval.low
    assert proportions.chance_kept(counts, share) == pytest.approx(float(ndtr(-z)), abs=1e-9)


def test_p_values_of_shares_beyond_every_interval() -> None:
    assert proportions.chance_kept(CHANGED, 0.0) == pytest.approx(1.0)
    assert proportions.chance_kept(CHANGED, 50.0) < 1e-15


@pytest.mark.parametrize(
    ("lost", "gained", "p"), [(5, 0, 2**-5), (0, 0, 1.0), (3, 1, 5 / 16), (0, 5, 1.0), (8, 2, 56 / 1024)]
)
def test_mcnemar_is_exact(lost: int, gained: int, p: float) -> None:
    assert proportions.mcnemar(lost, gained) == pytest.approx(p, rel=1e-12)


def test_holm() -> None:
    assert proportions.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert proportions.holm([0.9, 0.8]) == [1.0, 1.0]
    assert proportions.holm([]) == []


def test_what_can_be_seen() -> None:
    """Five losses and no gain are significant, 2^-5 < 5 %; with 500 examples a drop of 1.82 % gives five at 95 %."""
    seen = proportions.detectable(500)
    assert seen == pytest.approx(0.0182, abs=5e-5)
    losses = np.random.default_rng(0).binomial(500, seen or 0.0, 100_000)
    assert (losses >= 5).mean() == pytest.approx(0.95, abs=0.003)  # three standard errors are 0.002
    assert proportions.detectable(4) is None
    more, fewer = proportions.detectable(500, gained=5), proportions.detectable(2000)
    assert more is not None
    assert fewer is not None
    assert more > 0.0182 > fewer


def test_how_many_it_takes() -> None:
    n = proportions.least_examples(0.01)
    assert n == 381
    assert proportions.difference(Pairs(n, 0, 0, 0)).high <= 0.01
    assert proportions.difference(Pairs(n - 1, 0, 0, 0)).high > 0.01


def test_coverage_where_few_answers_change(rng: np.random.Generator) -> None:
    """5 of 1,000 lost and 3 gained: a bootstrap holds the truth 86 % of the time there."""
    trials, held = 400, np.zeros(2)
    for _ in range(trials):
        right, changed = rng.random(600) < 0.99, rng.random(600)
        lost, gained = right & (changed < 0.005 / 0.99), ~right & (changed < 0.3)
        counts = Pairs(
            int((right & ~lost).sum()), int(lost.sum()), int(gained.sum()), int((~right & ~gained).sum())
        )  # fmt: skip
        drop, kept = proportions.difference(counts), proportions.ratio(counts)
        held += (drop.low <= 0.002 <= drop.high, kept.low <= 0.988 / 0.99 <= kept.high)
    # 3.09 standard errors of 95 %: a true coverage fails one run in 500
    assert (held / trials > 0.95 - 3.09 * math.sqrt(0.95 * 0.05 / trials)).all(), held / trials
