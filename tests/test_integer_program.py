from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.integer_program import _no_standard_output, optimum


@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_no_choice_within_the_limits_gains_more(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    gains, costs, other = rng.uniform(-1, 1, size), rng.uniform(0, 1, size), rng.uniform(0, 1, size)
    limits = [(costs, 0.3 * costs.sum()), (np.stack([other, -other]), 0.6 * other.sum())]
    found = optimum(gains, limits)
    assert found is not None
    choices = np.array(list(itertools.product((0, 1), repeat=size)))
    within = (choices @ costs <= limits[0][1]) & (choices @ other <= limits[1][1])
    assert gains @ found.round() == pytest.approx((choices[within] @ gains).max(), abs=1e-6)


def test_what_cannot_be_held_has_no_optimum() -> None:
    assert optimum(np.ones(2), [(-np.ones(2), -3.0)]) is None


def test_what_a_library_prints_is_swallowed_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    with _no_standard_output():
        os.write(1, b"progress of HiGHS\n")
    os.write(1, b"result\n")
    assert capfd.readouterr().out == "result\n"
