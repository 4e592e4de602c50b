from __future__ import annotations

import numpy as np
import pytest

from dlc.passes.blockwise import Blocks, quantize
from dlc.passes.gptq import DAMPING, _factor
from dlc.types import Array, Floats


def inputs(k: int, rows: int, seed: int = 0) -> Array:
    """Inputs that move together, as those of a trained net do: mixtures of k / 4 causes, and a little of their own."""
    rng = np.random.default_rng(seed)
    causes = rng.standard_normal((rows, k // 4)) @ rng.standard_normal((k // 4, k))
    return (causes + 0.3 * rng.standard_normal((rows, k))).astype(np.float32)


def moments(x: Array) -> Floats:
    return (x.T @ x).astype(np.float64)


def quantized(w: Array, h: Floats | None, *, symmetric: bool = True, block: int = 16) -> Blocks:
    return quantize(w, bits=4, block=block, symmetric=symmetric, search=True, method="gptq", moments=h)


def test_the_factor_is_one_of_the_damped_inverse() -> None:
    h = moments(inputs(32, 200))
    u = _factor(h).astype(np.float64)
    damped = h + DAMPING * np.trace(h) / 32 * np.eye(32)
    assert np.array_equal(u, np.triu(u))
    # U is stored in FP32, so each element of U' U is off by 2 eps of the terms; H carries that over by its condition.
    bound = 2 * 32 * 2.0**-24 * np.linalg.cond(damped)
    assert np.abs(damped @ (u.T @ u) - np.eye(32)).max() <= bound


@pytest.mark.parametrize("symmetric", [True, False])
def test_inputs_that_do_not_move_together_are_rounded_to_nearest(*, symmetric: bool) -> None:
    w = np.random.default_rng(1).standard_normal((8, 32)).astype(np.float32)
    got = quantized(w, np.diag(np.arange(1.0, 33.0)), symmetric=symmetric)
    nearest = quantize(w, bits=4, block=16, symmetric=symmetric, search=True)
    assert np.array_equal(got.q, nearest.q)
    assert np.array_equal(got.scale, nearest.scale)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("k", [64, 72])
def test_products_lose_less_than_by_rounding_to_nearest(k: int, *, symmetric: bool) -> None:
    w = np.random.default_rng(2).standard_normal((24, k)).astype(np.float32)
    x, held_out = np.split(inputs(k, 500), [400])
    losses = []
    for method_moments in (None, moments(x)):
        blocks = quantized(w, method_moments, symmetric=symmetric)
        off = blocks.dequantize()[:, :k] - w
        losses.append([float(np.square(each @ off.T).sum()) for each in (x, held_out)])
        assert not blocks.dequantize()[:, k:].any()
    assert losses[1][0] < 0.6 * losses[0][0]
    assert losses[1][1] < losses[0][1]


def test_an_input_that_was_never_seen_has_no_say() -> None:
    w, x = np.random.default_rng(3).standard_normal((4, 32)).astype(np.float32), inputs(32, 100)
    x[:, 5] = 0
    blocks = quantized(w, moments(x))
    error = np.abs(blocks.dequantize()[:, 5] - w[:, 5])
    assert (
        error <= np.abs(blocks.scale[:, 0])
    ).all()  # nothing was shifted onto it, and its rounding is one step at most
    assert np.isfinite(blocks.dequantize()).all()


def test_a_row_of_zeros_stays() -> None:
    w = np.zeros((2, 32), np.float32)
    assert not quantized(w, moments(inputs(32, 100))).dequantize().any()
