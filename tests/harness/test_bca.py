"""The BCa bootstrap: percentiles where nothing is skewed, shifted where something is, and its inverse."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.harness.bca import Draws


@pytest.fixture
def skewed(rng: np.random.Generator) -> Draws:
    sample = rng.exponential(size=40)
    draws = sample[rng.integers(0, 40, (4000, 40))].mean(axis=1)
    left_out = (sample.sum() - sample) / 39
    return Draws(float(sample.mean()), draws, left_out)


def test_without_bias_and_skewness_limits_are_percentiles() -> None:
    draws = np.linspace(-1, 1, 2001)
    found = Draws(0.0, draws, np.array([-1.0, 0.0, 1.0])).interval()
    assert (found.low, found.high) == pytest.approx((-0.95, 0.95), abs=1e-3)  # between two draws


def test_skewness_moves_both_limits_up(skewed: Draws) -> None:
    """The mean of exponentials is skewed to the right, and so is its interval."""
    found = skewed.interval()
    low, high = np.percentile(skewed.draws, (2.5, 97.5))
    assert found.low > low
    assert found.high > high


def test_the_p_value_inverts_the_lower_limit(skewed: Draws) -> None:
    found = skewed.interval()
    assert skewed.chance_below(found.low) == pytest.approx(0.025, abs=1e-3)  # a draw is 0.00025
    assert skewed.chance_below(found.high) == pytest.approx(0.975, abs=1e-3)


def test_draws_that_are_all_alike_give_no_width() -> None:
    found = Draws(3.0, np.full(100, 3.0), np.full(10, 3.0)).interval()
    assert (found.low, found.value, found.high) == (3, 3, 3)


def test_no_p_value_is_zero() -> None:
    assert 0 < Draws(5.0, np.linspace(4, 6, 100), np.empty(0)).chance_below(0.0) < 0.02
