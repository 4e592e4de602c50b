from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.passes.blockwise import METHODS, quantize
from dlc.passes.half_quadratic import P, fit
from dlc.types import Array


def blocks(seed: int, n: int = 64, block: int = 32) -> Array:
    """Weights with a few outliers: Student's t with 3 degrees of freedom."""
    return np.random.default_rng(seed).standard_t(3, (n, block)).astype(np.float32)


def norm(w: Array, scale: Array, zero: Array, bits: int) -> Array:
    """Sum of |error|^p of each block, computed plainly."""
    q = np.clip(np.floor(w / scale[:, None] + zero[:, None] + 0.5), 0, (1 << bits) - 1)
    return np.asarray((np.abs(w - (q - zero[:, None]) * scale[:, None], dtype=np.float64) ** P).sum(axis=1))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 20), bits=st.sampled_from([4, 8]), symmetric=st.booleans())
def test_no_block_gets_worse_and_zero_points_are_whole(seed: int, bits: int, *, symmetric: bool) -> None:
    w = blocks(seed)
    start = quantize(w, bits=bits, block=32, symmetric=symmetric, search=True)
    zero = np.full(64, 1 << (bits - 1), np.float32) if start.zero is None else start.zero[:, 0].astype(np.float32)
    scale, fitted = fit(w, start.scale[:, 0], zero, bits, symmetric=symmetric)
    assert np.array_equal(fitted, zero if symmetric else np.clip(np.rint(fitted), 0, (1 << bits) - 1))
    # A level times a scale rounds by 2^-24 of at most 2^bits steps; |e|^p of a sum is at most the sum of the |.|^p's.
    slack = 2 * 32 * (np.abs(start.scale[:, 0]) * 2.0 ** (bits - 22)) ** P
    assert (norm(w, scale, fitted, bits) <= norm(w, start.scale[:, 0], zero, bits) + slack).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_most_weights_come_closer_at_the_price_of_outliers(*, symmetric: bool) -> None:
    closer = 0
    for seed in range(10):
        w = blocks(seed)
        plain, fitted = (
            np.abs(quantize(w, bits=4, block=32, symmetric=symmetric, search=True, method=m).dequantize() - w)
            for m in METHODS[:2]
        )
        closer += np.median(fitted) < np.median(plain)
    assert closer == 10


def test_a_block_of_zeros_is_left_alone() -> None:
    zero = np.array([3.0], np.float32)
    scale, fitted = fit(np.zeros((1, 16), np.float32), np.zeros(1, np.float32), zero, 4, symmetric=False)
    assert (scale.tolist(), fitted.tolist()) == ([0.0], [3.0])


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_points_are_packed_as_whole_numbers(bits: int) -> None:
    got = quantize(blocks(7), bits=bits, block=32, symmetric=False, search=False, method="hqq")
    assert got.zero is not None
    assert got.zero.dtype == np.uint8
