"""Numbers of 8 bits, checked against ONNX Runtime's integer kernels on this machine."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.passes.qdq import WEIGHT_MAX, ActivationType, Affine, k_order, quantize_weight, weight_scales
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.types import Array

ONE = np.float32(1)
FINITE = st.floats(-1e4, 1e4, width=32)


@given(FINITE, FINITE, st.sampled_from(["uint8", "int8"]))
@settings(deadline=None, derandomize=True)
def test_zero_is_exact_and_the_ends_are_reached(a: float, b: float, dtype: ActivationType) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    affine = Affine.covering(low, high, dtype)
    info, scale = np.iinfo(dtype), float(affine.scale)
    assert info.min <= affine.zero_point <= info.max
    if high - low < 1e-30:
        return
    # the zero point is rounded, which moves both ends by at most half a step; the scale by one float32 rounding
    slack = scale * (0.5 + 256 * 2**-23)
    assert abs(scale * (info.min - affine.zero_point) - low) <= slack
    assert abs(scale * (info.max - affine.zero_point) - high) <= slack


def test_an_activation_that_is_always_zero_has_a_scale() -> None:
    assert Affine.covering(0.0, 0.0, "uint8") == Affine(ONE, 0, "uint8")


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.booleans())
@settings(deadline=None, derandomize=True)
def test_pairs_never_leave_16_bits_and_are_as_fine_as_7_bits(seed: int, channels: int, heavy: bool) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((4, channels, 3, 3)) if not heavy else rng.standard_cauchy((4, channels, 3, 3))
    weight = weight.astype(np.float32)
    scales = weight_scales(weight, pairs=True, bias=None, x_scale=ONE)
    rows = k_order(quantize_weight(weight, scales)).astype(int)
    rows = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
    first, second = rows[:, ::2], rows[:, 1::2]
    for worst in (np.maximum(first, 0) + np.maximum(second, 0), np.minimum(first, 0) + np.minimum(second, 0)):
        assert (255 * worst >= -(2**15)).all()
        assert (255 * worst <= 2**15 - 1).all()
    seven_bits = np.abs(weight).reshape(4, -1).max(axis=1) / 63
    assert (scales <= seven_bits).all()


def test_without_pairs_the_largest_weight_is_127() -> None:
    weight = np.array([[1.0, -2.0], [0.5, 0.25]], np.float32)
    scales = weight_scales(weight, pairs=False, bias=None, x_scale=ONE)
    assert np.abs(quantize_weight(weight, scales)).max(axis=1).tolist() == [WEIGHT_MAX, WEIGHT_MAX]


def test_a_bias_beside_dead_weights_keeps_its_value() -> None:
    """BatchNorm folding leaves channels whose weights are next to nothing, with a bias that matters."""
    weight, bias = np.array([[1e-30, 0.0], [0.0, 0.0]], np.float32), np.array([1.5, -0.25], np.float32)
    x_scale = np.float32(0.02)
    scales = weight_scales(weight, pairs=True, bias=bias, x_scale=x_scale)
    units = x_scale * scales
    levels = np.rint(bias / units.astype(np.float64))
    assert np.abs(levels).max() < 2**31
    np.testing.assert_allclose(levels * units, bias, rtol=2**-23)  # one float32 rounding of the unit


def _convolution(weight: Array, group: int) -> ir.Model:
    channels, filters = weight.shape[1] * group, weight.shape[0]
    text = f"""
    <ir_version: 10, opset_import: ["" : 20]>
    g (uint8[1, {channels}, 6, 6] x) => (uint8[1, {filters}, 6, 6] y)
    <float one = {{1.0}}, uint8 zero = {{0}}, float w_scale = {{0.0001}}, int8 w_zero = {{0}}, float y_scale = {{1.0}},
     uint8 y_zero = {{128}}> {{
        y = QLinearConv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = {group}>
            (x, one, zero, w, w_scale, w_zero, y_scale, y_zero)
    }}
    """
    model = ir.from_onnx_text(text.replace("(uint8[1, ", f"(int8[{','.join(map(str, weight.shape))}] w, uint8[1, ", 1))
    value = model.graph.inputs.pop(0)
    value.const_value = ir.tensor(weight, name="w")
    model.graph.register_initializer(value)
    return model


def _reference(x: Array, weight: Array, group: int) -> Array:
    """Sums in 64 bits, pixel by pixel."""
    filters, each = weight.shape[0], weight.shape[1]
    padded = np.pad(x[0].astype(np.int64), ((0, 0), (1, 1), (1, 1)))
    sums = np.zeros((1, filters, 6, 6), np.int64)
    for f in range(filters):
        start = f // (filters // group) * each
        for i in range(6):
            for j in range(6):
                sums[0, f, i, j] = (padded[start : start + each, i : i + 3, j : j + 3] * weight[f]).sum()
    levels: Array = np.clip(np.rint(sums * 0.0001) + 128, 0, 255)
    return levels


@pytest.mark.parametrize("group", [16, 24], ids=["depthwise", "depthwise, unaligned"])
def test_depthwise_kernels_sum_full_8_bit_weights_exactly(group: int) -> None:
    """This is why depthwise filters keep 8 bits where others do not."""
    weight = np.full((group, 1, 3, 3), 127, np.int8)
    weight[::2] = -127
    x = np.full((1, group, 6, 6), 255, np.uint8)
    with OrtCpuRunner(_convolution(weight, group)) as runner:
        # products of 1e-4 round at halves that neither side meets: 9, 6 and 4 taps give 29.1, 19.4 and 13.0
        assert (runner.run({"x": x})["y"] == _reference(x, weight, group)).all()


@pytest.mark.parametrize("channels", [3, 4, 6, 16], ids="{} channels".format)
def test_dense_kernels_sum_paired_weights_exactly(channels: int) -> None:
    """All inputs at 255 and the largest weights that pairing allows: the worst case of a 16-bit sum."""
    rng = np.random.default_rng(channels)
    float_weight = (
        np.abs(rng.standard_normal((16, channels, 3, 3))) * np.array([1, -1] * 8)[:, None, None, None]
    ).astype(np.float32)
    weight = quantize_weight(float_weight, weight_scales(float_weight, pairs=True, bias=None, x_scale=ONE))
    x = np.full((1, channels, 6, 6), 255, np.uint8)
    with OrtCpuRunner(_convolution(weight, 1)) as runner:
        got = runner.run({"x": x})["y"].astype(int)
    # both sides round the same exact sum times 1e-4; float32 against float64 may fall on different sides of a half
    exact = _reference(x, weight, 1)
    assert np.abs(got - exact).max() <= 1
    assert (got != exact).mean() < 0.01
