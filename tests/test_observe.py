"""What calibration sees: every value of every batch, in as many runs as the memory allows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest

from dlc import observe as module
from dlc.calibrate import calibrate, calibrate_channels, channel_means, measure
from dlc.calibration import Calibration, Method
from dlc.clipping import Range
from dlc.errors import UserError
from dlc.histogram import Histogram, extremes_of
from dlc.observe import observe, probed_sizes, revealing, stated_sizes
from dlc.runtimes.session import SessionConfig
from dlc.types import Array, Feeds

CHAIN = """
<ir_version: 10, opset_import: ["": 20]>
g (float[b, 256] x) => (float[b, 256] y) {
    h1 = Neg (x)
    h2 = Add (h1, x)
    h3 = Exp (x)
    y = Mul (h3, x)
}
"""
NAMES = ("x", "h1", "h2", "h3", "y")
ROW = 256 * 4


def chain() -> ir.Model:
    """Return the graph, its inner values typed as the pipeline would leave them."""
    model = ir.from_onnx_text(CHAIN)
    for node in model.graph:
        node.outputs[0].shape, node.outputs[0].dtype = ir.Shape(["b", 256]), ir.DataType.FLOAT
    return model


def data(*rows: int) -> list[Feeds]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(n, 256)).astype(np.float32)} for n in rows]


def test_a_cap_takes_several_runs_and_changes_nothing() -> None:
    model, batches = chain(), data(4, 4, 2)
    free = measure(model, batches, NAMES, {"h3": 1})
    one = 4 * ROW + Histogram.nbytes
    capped = measure(model, batches, NAMES, {"h3": 1}, options=Calibration(max_ram=2 * one))
    assert (free.runs, capped.runs) == (1, 3)
    assert free.ranges == capped.ranges
    assert free.means == capped.means


def test_one_value_that_does_not_fit_is_named_with_what_it_takes() -> None:
    with pytest.raises(UserError, match=r"to calibrate 'x' takes 0\.1 MiB .* raise --max-ram"):
        measure(chain(), data(64), NAMES, options=Calibration(max_ram=100_000))


def test_a_batch_that_grows_is_regrouped_and_counted_once() -> None:
    model, batches = chain(), data(1, 64)
    cap = 3 * (64 * ROW + Histogram.nbytes)  # all five values of the first batch fit, three of the second
    seen = observe(model, batches, {name: lambda: [Histogram()] for name in NAMES}, max_ram=cap)
    assert seen.runs == 2
    assert {int(seen.of[name][0].counts.sum()) for name in NAMES} == {65 * 256}


def test_an_iterator_cannot_be_run_again_and_says_so() -> None:
    one = 4 * ROW + Histogram.nbytes
    with pytest.raises(UserError, match="give a function that yields it anew"):
        measure(chain(), iter(data(4, 4)), NAMES, options=Calibration(max_ram=2 * one))


def test_only_what_a_group_needs_is_run() -> None:
    assert [n.op_type for n in revealing(chain(), ["h2"]).graph] == ["Neg", "Add"]


def test_stated_sizes_are_those_that_a_run_shows() -> None:
    model, feeds = chain(), data(7)[0]
    probed = probed_sizes(model, NAMES[1:], feeds, SessionConfig())
    assert stated_sizes(model, NAMES, feeds) == {"x": 7 * ROW, **probed}
    assert set(probed.values()) == {7 * ROW}


def test_a_size_that_the_graph_does_not_state_is_left_to_a_run() -> None:
    model = chain()
    next(iter(model.graph)).outputs[0].shape = ir.Shape(["s0", 256])
    assert "h1" not in stated_sizes(model, NAMES, data(2)[0])


def test_a_shape_that_is_stated_too_small_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "stated_sizes", lambda _model, names, _feeds: dict.fromkeys(names, 1))
    cap = 2 * (64 * ROW + Histogram.nbytes)
    seen = observe(chain(), data(64), {n: lambda: [Histogram()] for n in NAMES}, max_ram=cap)
    assert seen.runs == 3
    assert {int(seen.of[name][0].counts.sum()) for name in NAMES} == {64 * 256}


def test_a_batch_is_read_when_the_one_before_was_looked_at() -> None:
    read: list[int] = []
    at_work: list[int] = []

    def batches() -> Iterator[Feeds]:
        for i, feeds in enumerate(data(1, 1, 1, 1, 1)):
            read.append(i)
            yield feeds

    class Looking:
        nbytes = 0

        def add(self, _: Array, __: tuple[float, float]) -> None:
            at_work.append(len(read))

    observe(chain(), batches, {"y": lambda: [Looking()]})
    assert at_work == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("method", ["minmax", "mse", "entropy"])
def test_each_channel_has_the_range_it_would_have_alone(method: Method) -> None:
    model, batches = chain(), data(300, 300)
    both = np.concatenate([feeds["x"] for feeds in batches])
    ranges = calibrate_channels(model, lambda: batches, {"x": 1}, method=method)["x"]
    assert len(ranges) == 256
    for channel in (0, 17, 255):
        alone = [{"x": np.repeat(both[:, channel : channel + 1], 256, axis=1)}]
        assert ranges[channel] == calibrate(model, alone, ["x"], method=method)["x"]


def test_channels_that_the_graph_does_not_count_are_refused() -> None:
    with pytest.raises(UserError, match="does not state how many"):
        calibrate_channels(chain(), data(1), {"x": 0})


def test_means_of_channels_inside_an_image() -> None:
    text = (
        """<ir_version: 10, opset_import: ["": 20]> g (float[b, 3, 4, 5] x) => (float[b, 3, 4, 5] y) { y = Neg(x) }"""
    )
    x = np.random.default_rng(0).normal(size=(6, 3, 4, 5)).astype(np.float32)
    means = channel_means(ir.from_onnx_text(text), [{"x": x[:2]}, {"x": x[2:]}], {"x": 1, "y": -3})
    wanted = x.mean(axis=(0, 2, 3), dtype=np.float64)
    eps = 20 * 2.0**-23 * np.abs(x).max()  # 20 values of an example are added in float32
    np.testing.assert_allclose(means["x"], wanted, rtol=0, atol=eps)
    np.testing.assert_allclose(means["y"], -wanted, rtol=0, atol=eps)


def test_a_moving_average_forgets_early_batches() -> None:
    batches = [{"x": np.full((1, 256), value, np.float32)} for value in (100.0, 1.0, 1.0)]
    found = measure(chain(), batches, ["x"], options=Calibration(method="moving-average", momentum=0.5))
    assert found.ranges["moving-average"]["x"] == Range(25.75, 25.75)  # (((100 + 1) / 2) + 1) / 2
    assert found.constant == {}


def test_constant_values_are_told_apart() -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[b] x) => (float[b] y)
    { c = Sub(x, x)  y = Add(c, x) }"""
    found = measure(ir.from_onnx_text(text), [{"x": np.array([1.0, 2.0], np.float32)}], ["c", "y"])
    assert found.constant == {"c": 0.0}


def test_no_data_has_no_extremes() -> None:
    assert Histogram().average is None
    assert extremes_of(np.array([3.0, -1.0])) == (-1.0, 3.0)
