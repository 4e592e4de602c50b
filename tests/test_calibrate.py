from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.calibrate import Range, calibrate, channel_means
from dlc.calibration import METHODS, Calibration, Method
from dlc.clipping import LEVELS, clipped, minmax, mse, percentile
from dlc.errors import DataError, UserError
from dlc.histogram import BINS, COUNTED, Histogram
from dlc.types import Array, Floats

MODEL = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[b, 3] x) => (float[b, 3] y) {
    h = Log (x)
    y = Neg (h)
}
"""

FLOATS = st.floats(-(2.0**60), 2.0**60, width=32).map(lambda v: v if abs(v) > 2.0**-60 else 0.0)
"""Far from underflow in units of a bin."""


def histogram(*batches: Array) -> Histogram:
    seen = Histogram()
    for batch in batches:
        seen.add(batch)
    return seen


def squared_error(values: Floats, chosen: Range) -> float:
    """Error of really rounding and clipping the values to 256 levels: the slow, obvious one."""
    step = (chosen.high - chosen.low) / LEVELS
    levels = np.clip(np.rint((values - chosen.low) / step), 0, LEVELS)
    return float(((chosen.low + step * levels - values) ** 2).sum())


@given(
    st.lists(
        st.lists(FLOATS, min_size=1, max_size=20).map(lambda v: np.array(v, np.float32)),
        min_size=1,
        max_size=5,
    ),
    st.randoms(use_true_random=False),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_histogram_does_not_depend_on_order_or_batching(batches: list[Array], shuffle: object) -> None:
    flat = np.concatenate(batches)
    mixed = flat.copy()
    shuffle.shuffle(mixed)  # type: ignore[attr-defined]
    apart, together = histogram(*batches), histogram(mixed)
    assert apart.exponent == together.exponent
    assert (apart.counts == together.counts).all()
    assert apart.counts.sum() == flat.size
    assert (apart.low, apart.high) == (flat.min(), flat.max())
    expected, _ = np.histogram(flat.astype(np.float64), apart.edges)
    assert (apart.counts == expected).all()


def test_of_a_large_batch_some_values_count_for_others() -> None:
    values = np.random.default_rng(0).standard_normal((4, 4 * COUNTED)).astype(np.float32)
    seen = histogram(*values)
    assert seen.counts.sum() == pytest.approx(values.size, abs=4 * 5)  # one in five; a batch may end within a step
    assert (seen.low, seen.high) == (values.min(), values.max())
    expected, _ = np.histogram(values.astype(np.float64), seen.edges)
    shares, truth = (np.cumsum(each) / values.size for each in (seen.counts, expected))
    # 4 · 4 / 5 of COUNTED values are counted: shares of a half are known to 0.5 / sqrt of that, 6e-4; four of these
    assert np.abs(shares - truth).max() < 4 * 0.5 / np.sqrt(4 * 4 / 5 * COUNTED)


def test_histogram_uses_a_quarter_of_its_bins_at_least() -> None:
    seen = histogram(np.array([0.0, 6.0], np.float32))
    assert np.flatnonzero(seen.counts)[-1] - BINS // 2 >= BINS // 4
    assert seen.edges[np.flatnonzero(seen.counts)[-1]] <= 6.0


def test_zeros_alone_have_a_range() -> None:
    for method in METHODS:
        assert clipped(histogram(np.zeros(8, np.float32)), method, Calibration()) == Range(0.0, 0.0)


def test_percentile_cuts_both_tails() -> None:
    values = np.concatenate([np.linspace(-1, 1, 99_998), [-500, 700]]).astype(np.float32)
    chosen = percentile(histogram(values))
    bin_width = 2.0**-2  # 700 needs 2**10 on each side, in 4096 bins
    assert abs(chosen.low + 1) <= bin_width
    assert abs(chosen.high - 1) <= bin_width


def test_mse_cuts_an_outlier_and_keeps_a_box() -> None:
    rng = np.random.default_rng(0)
    tail = np.append(rng.standard_normal(1_000_000), 20.0)
    seen = histogram(tail.astype(np.float32))
    assert squared_error(tail, mse(seen)) < 0.5 * squared_error(tail, minmax(seen))
    box = rng.uniform(0, 6, 100_000).astype(np.float32)
    assert mse(histogram(box)) == Range(0.0, float(box.max()))


def test_mse_is_the_best_of_its_candidates_when_values_are_really_rounded() -> None:
    rng = np.random.default_rng(1)
    values = np.maximum(rng.laplace(0.2, 1, 50_000), -1.5)
    seen = histogram(values.astype(np.float32))
    shares = np.arange(1, 65) / 64
    best = min(squared_error(values, Range(seen.low * a, seen.high * b)) for a in shares for b in shares[::4])
    # rounding errors are modelled as uniform: by the sum of 5e4 of them, n step^2 / 12 (1 +- 0.9 / sqrt(n)), to 1 %
    assert squared_error(values, mse(seen)) <= 1.01 * best


@pytest.mark.parametrize("method", METHODS)
def test_inner_values_and_inputs_are_observed(method: Method) -> None:
    model = ir.from_onnx_text(MODEL)
    batches = [{"x": np.array([[1.0, 2.0, 4.0]], np.float32)}, {"x": np.array([[8.0, 1.0, 1.0]] * 2, np.float32)}]
    ranges = calibrate(model, iter(batches), ["x", "h", "y"], method=method)
    assert list(ranges) == ["x", "h", "y"]
    if method == "minmax":
        assert ranges["x"] == Range(1.0, 8.0)
        assert ranges["h"] == Range(0.0, float(np.log(np.float32(8))))
        assert ranges["y"] == Range(-ranges["h"].high, 0.0)
    assert [v.name for v in model.graph.outputs] == ["y"]


def test_infinity_inside_names_the_tensor_and_the_batch() -> None:
    batches = [{"x": np.ones((1, 3), np.float32)}, {"x": np.zeros((1, 3), np.float32)}]
    with pytest.raises(DataError, match="batch 1: 'h' holds NaN or infinity"):
        calibrate(ir.from_onnx_text(MODEL), batches, ["h"])


def test_nan_in_the_data_names_the_input() -> None:
    with pytest.raises(DataError, match="batch 0: input 'x' holds NaN"):
        calibrate(ir.from_onnx_text(MODEL), [{"x": np.full((1, 3), np.nan, np.float32)}], ["h"])


@pytest.mark.parametrize("batches", [[], [{"x": np.zeros((0, 3), np.float32)}]], ids=["no batch", "empty batch"])
def test_no_data_is_an_error(batches: list[dict[str, Array]]) -> None:
    with pytest.raises(DataError, match="calibration data is empty"):
        calibrate(ir.from_onnx_text(MODEL), batches, ["h"])


def test_an_unknown_tensor_is_named() -> None:
    with pytest.raises(UserError, match="cannot calibrate 'z'"):
        calibrate(ir.from_onnx_text(MODEL), [], ["z"])


def test_means_are_of_each_channel_over_all_batches() -> None:
    x = np.arange(1, 10, dtype=np.float32).reshape(3, 3)
    means = channel_means(ir.from_onnx_text(MODEL), [{"x": x[:1]}, {"x": x[1:]}], {"x": -1, "h": 1})
    assert means["x"].tolist() == [4.0, 5.0, 6.0]
    np.testing.assert_allclose(means["h"], np.log(x).mean(axis=0), rtol=4 * 2**-23)  # Log: 2 ulp; 3 terms in FP32: 2
