"""Distances in pieces, against the plain formulas over the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dlc.apart import PIECE, Meter
from dlc.harness.agreement import SQNR_MAX
from dlc.types import Array

NUMBERS = st.floats(-1e3, 1e3, width=32)


def apart(expected: Array, got: Array) -> Meter:
    meter = Meter()
    meter.add(expected, got)
    return meter


@settings(derandomize=True, deadline=None)
@given(arrays(np.float32, (2, 17), elements=NUMBERS))
def test_it_is_what_the_formulas_say(pair: Array) -> None:
    x, y = pair.astype(np.float64)
    found = apart(*pair).result()
    assert found.max_abs == np.abs(x - y).max()
    noise, signal = ((x - y) ** 2).sum(), (x**2).sum()
    if noise > signal * 10 ** (-SQNR_MAX / 10) and signal > 0:
        # 17 terms in another order of sums: 17·eps of each sum, 10/ln(10) dB a unit
        assert found.sqnr_db == pytest.approx(
            max(-SQNR_MAX, 10 * math.log10(signal / noise)), abs=4.4 * 4 * 17 * np.finfo(np.float64).eps
        )
    assert -1 <= found.cosine <= 1


def test_pieces_add_up() -> None:
    """The same array, whole and in two parts; a piece ends within it."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(PIECE + 1000).astype(np.float32)
    y = (x + rng.standard_normal(x.shape) / 100).astype(np.float32)
    whole, parts = apart(x, y).result(), apart(x[:777], y[:777])
    parts.add(x[777:], y[777:])
    assert whole.sqnr_db == pytest.approx(parts.result().sqnr_db, abs=1e-9)  # sums of 7e4 terms: 7e4·eps = 1.5e-11
    assert whole.sqnr_db == pytest.approx(40, abs=0.1)  # noise of a hundredth: 40 dB; 6e4 terms leave 0.04 dB


def test_equal_and_zero() -> None:
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert (apart(one, one).result().sqnr_db, apart(zero, zero).result().cosine) == (SQNR_MAX, 1.0)
    assert (apart(zero, one).result().sqnr_db, apart(zero, one).result().cosine) == (-SQNR_MAX, 0.0)


def test_what_is_not_finite_on_one_side_is_odd() -> None:
    x = np.array([1, np.nan, np.inf, -np.inf, 5], np.float32)
    assert apart(x, x).result().odd == 0
    assert apart(x, x).result().sqnr_db == SQNR_MAX
    found = apart(x, np.array([1, 2, np.inf, np.inf, 4], np.float32)).result()
    assert (found.odd, found.max_abs, found.sqnr_db) == (2, 1.0, -SQNR_MAX)
