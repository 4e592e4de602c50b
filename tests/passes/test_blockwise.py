from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.passes.blockwise import CHUNK, Blocks, pack, quantize
from dlc.types import Array


def normal(rows: int, k: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, k)).astype(np.float32)


def test_pack_puts_the_even_element_in_the_low_nibble() -> None:
    q = np.array([[0x1, 0x2, 0xF, 0x0, 0x7]], np.uint8)
    assert pack(q, 4).tolist() == [[0x21, 0x0F, 0x07]]
    assert pack(q, 8) is q


def test_symmetric_reaches_minus_eight() -> None:
    w = np.zeros((1, 16), np.float32)
    w[0, :3] = [4.0, -2.0, 1.0]
    blocks = quantize(w, bits=4, block=16, symmetric=True, search=False)
    assert blocks.scale.tolist() == [[-0.5]]
    assert blocks.q[0, 0, :4].tolist() == [0, 12, 6, 8]
    assert np.array_equal(blocks.dequantize(), w)


def test_asymmetric_keeps_zero_exact() -> None:
    w = np.linspace(0.5, 8, 16, dtype=np.float32)[None]
    blocks = quantize(w, bits=4, block=16, symmetric=False, search=False)
    assert blocks.zero is not None
    assert blocks.zero.tolist() == [[0]]
    assert blocks.scale[0, 0] == np.float32(8 / 15)


@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_stay_zeros(*, symmetric: bool) -> None:
    blocks = quantize(np.zeros((2, 20), np.float32), bits=4, block=16, symmetric=symmetric, search=True)
    assert not blocks.dequantize().any()


def test_chunks_do_not_change_the_result() -> None:
    rows = CHUNK // 16 + 3
    w = normal(rows, 16)
    whole = quantize(w, bits=4, block=16, symmetric=True, search=True)
    tail = quantize(w[-5:], bits=4, block=16, symmetric=True, search=True)
    assert np.array_equal(whole.q[-5:], tail.q)
    assert np.array_equal(whole.scale[-5:], tail.scale)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 20),
    k=st.integers(1, 70),
    block=st.sampled_from([16, 32]),
    bits=st.sampled_from([4, 8]),
    symmetric=st.booleans(),
)
def test_search_is_never_worse_and_error_is_at_most_a_step(
    seed: int, k: int, block: int, bits: int, *, symmetric: bool
) -> None:
    w = normal(3, k, seed)
    plain, searched = (
        quantize(w, bits=bits, block=block, symmetric=symmetric, search=search) for search in (False, True)
    )

    def error(blocks: Blocks) -> Array:
        padded = np.zeros_like(blocks.dequantize())
        padded[:, :k] = w
        return (blocks.dequantize() - padded).reshape(3, -1, block)

    squares = [np.square(error(b), dtype=np.float64).sum(axis=-1) for b in (plain, searched)]
    # Both sums are made of the same float32 terms the search compared, up to the rounding of a sum of `block` of them.
    assert (squares[1] <= squares[0] * (1 + block * 2.0**-23)).all()
    # Half a step from rounding, half from the end of the range: the symmetric one is a level short above, the rounded
    # zero point of the other shifts it by up to half a level; 2^-20 for the rounding of the few operations.
    step = np.abs(plain.scale)[..., None]
    assert (np.abs(error(plain)) <= step * (1 + 2.0**-20)).all()
    assert not searched.dequantize()[:, k:].any()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_same_bytes_as_onnxruntime(bits: int, *, symmetric: bool) -> None:
    from onnxruntime.capi import _pybind_state as ort

    k, n, block = 128, 40, 32
    w = normal(k, n)
    packed = np.zeros((n, k // block, block * bits // 8), np.uint8)
    scale = np.zeros((n, k // block), np.float32)
    zero = np.zeros((n, -(-(k // block) * bits // 8)), np.uint8)
    theirs = ort.quantize_matmul_4bits if bits == 4 else ort.quantize_matmul_8bits
    theirs(packed, w, scale, zero, block, n, k, symmetric)
    ours = quantize(np.ascontiguousarray(w.T), bits=bits, block=block, symmetric=symmetric, search=False)
    assert np.array_equal(pack(ours.q, bits), packed)
    assert np.array_equal(ours.scale, scale)
    if ours.zero is not None:
        assert np.array_equal(pack(ours.zero, bits), zero)
