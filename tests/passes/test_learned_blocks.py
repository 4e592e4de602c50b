"""GPTQ in blocks: levels learned at scales and zero points of their own, of 4-bit and 8-bit weights."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.passes import round_weights
from dlc.passes.blockwise import Blocks, quantize
from dlc.passes.round_weights import learn_levels, rounding_error
from dlc.types import Array, Floats


def inputs(k: int, rows: int, seed: int = 0) -> Array:
    """Inputs that move together, as those of a trained net do: mixtures of k / 4 causes, and a little of their own."""
    rng = np.random.default_rng(seed)
    causes = rng.standard_normal((rows, k // 4)) @ rng.standard_normal((k // 4, k))
    return (causes + 0.3 * rng.standard_normal((rows, k))).astype(np.float32)


def moments(x: Array) -> Floats:
    wide = x.astype(np.float64)
    second: Floats = wide.T @ wide / len(x)
    return second


def weight(rows: int, k: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, k)).astype(np.float32)


def quantized(w: Array, h: Floats | None, *, symmetric: bool = True, bits: int = 4) -> Blocks:
    return quantize(w, bits=bits, block=16, symmetric=symmetric, search=True, method="gptq", moments=h)


@pytest.mark.parametrize("symmetric", [True, False])
def test_inputs_that_do_not_move_together_are_rounded_to_nearest(*, symmetric: bool) -> None:
    w = weight(8, 32, 1)
    got = quantized(w, 3.0 * np.eye(32), symmetric=symmetric)
    nearest = quantize(w, bits=4, block=16, symmetric=symmetric, search=True)
    assert np.array_equal(got.q, nearest.q)
    assert np.array_equal(got.scale, nearest.scale)


@pytest.mark.parametrize("symmetric", [True, False])
def test_scales_fit_the_inputs_that_are_large(*, symmetric: bool) -> None:
    """The large inputs decide: as errors count, no output loses more than with scales of least squares."""
    w, energy = weight(64, 32, 1), np.ones(32)
    energy[[3, 20]] = 1e4
    got = quantized(w, np.diag(energy), symmetric=symmetric)
    nearest = quantize(w, bits=4, block=16, symmetric=symmetric, search=True)
    counts = energy / energy.mean() + round_weights.DAMPING
    lost, before = (np.square(each.dequantize() - w) @ counts for each in (got, nearest))
    assert lost.sum() < 0.5 * before.sum()
    assert (lost <= before * (1 + 32 * 2.0**-23)).all()  # both are sums of 32 terms in float32, in the search


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("k", [64, 72])
def test_every_output_loses_no_more_than_by_rounding_to_nearest(k: int, bits: int, *, symmetric: bool) -> None:
    w = weight(24, k, 2)
    x, held_out = np.split(inputs(k, 500), [400])
    losses = []
    for seen in (None, moments(x)):
        blocks = quantized(w, seen, symmetric=symmetric, bits=bits)
        off = blocks.dequantize()[:, :k].astype(np.float64) - w
        losses.append([np.square(each @ off.T).sum(axis=0) for each in (x, held_out)])
        assert not blocks.dequantize()[:, k:].any()
    nearest, learned = losses
    # The guard compares in FP64; dequantized weights are rounded to FP32, by 2^-24 of them, on both sides.
    rounded = np.sqrt(np.square(2.0**-24 * np.abs(x).astype(np.float64) @ np.abs(blocks.dequantize()[:, :k]).T).sum(0))
    assert (np.sqrt(learned[0]) <= np.sqrt(nearest[0]) + 2 * rounded).all()
    assert learned[0].sum() < 0.6 * nearest[0].sum()
    assert learned[1].sum() < nearest[1].sum()


def test_blocks_may_be_learned_in_any_order() -> None:
    """Inputs come by size, wherever their blocks lie: what is permuted in whole blocks is learned as it was."""
    w, h = weight(6, 64, 3), moments(inputs(64, 300))
    order = np.concatenate([np.arange(16) + 16 * i for i in (2, 0, 3, 1)])
    straight, permuted = quantized(w, h), quantized(w[:, order], h[np.ix_(order, order)])
    assert np.array_equal(straight.dequantize()[:, order], permuted.dequantize())


def test_an_input_that_was_never_seen_has_no_say() -> None:
    w, x = weight(4, 32, 4), inputs(32, 100)
    x[:, 5] = 0
    blocks = quantized(w, moments(x))
    nearest = quantize(w, bits=4, block=16, symmetric=True, search=True)
    assert np.array_equal(blocks.q[:, 0, 5], nearest.q[:, 0, 5])
    assert not np.array_equal(blocks.q, nearest.q)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_block_of_zeros_stays(*, symmetric: bool) -> None:
    w = 100 * weight(3, 48, 5)  # so that errors to make up for are larger than any step would be
    w[:, 16:32] = 0
    blocks = quantized(w, moments(inputs(48, 100)), symmetric=symmetric)
    assert not blocks.dequantize()[:, 16:32].any()
    origin = 8 if blocks.zero is None else blocks.zero[:, 1, None]
    assert (blocks.q[:, 1] == origin).all()


@pytest.mark.parametrize("seed", range(6))
def test_where_levels_run_out_an_output_that_gains_nothing_keeps_the_nearest(seed: int) -> None:
    """Of three levels, weights soon reach the last, and what they were to make up for is lost."""
    rng = np.random.default_rng(seed)
    w, h = rng.standard_normal((1, 4, 6)), moments(rng.standard_normal((50, 6)) @ rng.standard_normal((6, 6)))[None]
    scales, end = np.full((1, 4, 1), 0.5), np.float64(1)
    learned, nearest = learn_levels(w, scales, h, -end, end), np.clip(np.rint(w / scales), -end, end)
    assert (rounding_error(w, learned * scales, h) <= rounding_error(w, nearest * scales, h)).all()


def test_outputs_that_are_rounded_apart_are_rounded_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    w, h = weight(10, 40, 6)[None], moments(inputs(40, 200))[None]
    scales = np.abs(w).max(axis=-1, keepdims=True) / 7
    whole = learn_levels(w, scales, h, np.float64(-7), np.float64(7))
    monkeypatch.setattr(round_weights, "AT_ONCE", 3 * 40)
    assert np.array_equal(learn_levels(w, scales, h, np.float64(-7), np.float64(7)), whole)
