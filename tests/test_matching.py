"""Values and weights by name, across every form in which dlc and onnxruntime.quantization write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc.calibrate import calibrate
from dlc.matching import stem, stored, twin, unpacked
from dlc.passes.base import Pass
from dlc.passes.cast_fp16 import CastFp16
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.passes.quantize_static import QuantizeStatic, tensors_to_calibrate
from dlc.passes.quantize_weights import QuantizeWeights
from dlc.types import Array
from tests.passes.quantized import dynamically, seeded, statically
from tests.passes.weights import weighted

BODY = "g (float[4, 64] x, float[64, 32] w, float[32] b) => (float[4, 32] y) { h = MatMul(x, w) y = Add(h, b) }"


def normal(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


W = normal(64, 32)


def linear() -> ir.Model:
    return weighted(BODY, {"w": W, "b": normal(32)})


def test_the_rounded_value_is_the_twin() -> None:
    assert twin("h", {"h", "h_dequantized"}) == "h_dequantized"
    assert twin("h", {"h", "h_DequantizeLinear_Output"}) == "h_DequantizeLinear_Output"
    assert (twin("h", {"h"}), twin("h", {"hh", "h_quantized"})) == ("h", None)
    assert (stem("w_q4"), stem("w.quantized"), stem("w")) == ("w", "w", "w")
    assert (unpacked("w", {"w_fp32", "x_fp32"}), unpacked("w", {"w"})) == ("w_fp32", None)


FORMS: tuple[tuple[Pass, float], ...] = (
    (QuantizeDynamic(), 1 / 127),
    (QuantizeDynamic(contrib=False), 1 / 127),
    (QuantizeDynamic(reduce_range=True), 1 / 64),
    (QuantizeWeights(bits=8, min_elements=1), 2 / 255),
    (QuantizeWeights(bits=8, symmetric=False, min_elements=1), 2 / 255),
    (CastFp16(), 2.0**-10),
)


@pytest.mark.parametrize(("form", "step"), FORMS, ids=str)
def test_a_weight_is_read_as_it_is_dequantized(form: Pass, step: float) -> None:
    """Rounding is off by half a step at most, and a step is a share of the largest weight."""
    model = linear()
    form(model)
    got = stored(model)["w"].read()
    got = got if got.shape == W.shape else got.T
    assert not np.array_equal(got, W)
    assert np.abs(got - W).max() <= step / 2 * np.abs(W).max() * 1.01  # 1.01: the FP32 scale is rounded itself


def test_four_bits() -> None:
    model = linear()
    QuantizeWeights(bits=4, min_elements=1, symmetric=False)(model)
    assert np.abs(stored(model)["w"].read().T - W).max() < np.abs(W).max() * 2 / 15  # a whole step of 15


def test_stock_dynamic() -> None:
    model = dynamically(linear())
    assert np.abs(stored(model)["w"].read() - W).max() <= np.abs(W).max() / 127


def test_weights_between_q_and_dq_are_computed() -> None:
    """The runtime dequantizes them, so they are fetched as values."""
    ours = linear()
    ranges = calibrate(ours, [{"x": normal(4, 64)}], tensors_to_calibrate(ours), method="minmax")
    QuantizeStatic(ranges=ranges)(ours)
    stock = statically(linear(), [seeded((4, 64))])
    for model, name in ((ours, "w_dequantized"), (stock, "w_DequantizeLinear_Output")):
        assert unpacked("w", {str(v.name) for n in model.graph for v in n.outputs}) == name
        assert "w" not in stored(model)


def test_reading_a_weight_keeps_nothing_mapped(tmp_path: Path) -> None:
    ir.save(linear(), tmp_path / "model.onnx", external_data="weights")
    model = ir.load(tmp_path / "model.onnx")
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    np.testing.assert_array_equal(stored(model)["w"].read(), W)
    assert tensor.raw is None
