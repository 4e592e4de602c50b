from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.export import export
from dlc.interface import Interface
from dlc.models import digits_cnn
from dlc.passes.pool_mean import PoolMean
from dlc.tolerance import distance, reassociation
from tests.passes.exported import EXPORTERS
from tests.passes.texts import compute, expected, graph, serialized, sites, text

MEAN = """g (float[n, 2, 3, 4] x) => (float[n, 2, 1, 1] y) <int64[2] axes = {-1, 2}> {
    y = ReduceMean(x, axes)
}"""


def test_golden() -> None:
    model = graph(MEAN)
    assert [s.reason for s in sites(model, PoolMean())] == [None]
    assert text(model) == expected("y = GlobalAveragePool(x)")


def test_golden_without_keepdims() -> None:
    model = graph(MEAN.replace("2, 1, 1] y", "2] y").replace("ReduceMean(", "ReduceMean<keepdims = 0>("))
    next(iter(model.graph)).name = "mean"
    assert [s.reason for s in sites(model, PoolMean())] == [None]
    assert text(model) == expected("mean.pool = GlobalAveragePool(x)\ny = Flatten(mean.pool)")


def test_golden_axes_in_an_attribute() -> None:
    model = graph(
        MEAN.replace(" <int64[2] axes = {-1, 2}>", "").replace("(x, axes)", "<axes = [2, 3]>(x)"),
        '<ir_version: 8, opset_import: ["" : 17]>',
    )
    assert [s.reason for s in sites(model, PoolMean())] == [None]
    assert text(model) == expected("y = GlobalAveragePool(x)")


def test_the_convolution_before_and_the_reader_after_are_timed_along() -> None:
    model = graph("""g (float[n, 1, 3, 4] x) => (float[n, 2, 1, 1] y)
        <float[2, 1, 1, 1] w = {1, 2}, int64[2] axes = {2, 3}> {
        c = Conv(x, w)
        r = Relu(c)
        m = ReduceMean(r, axes)
        y = Neg(m)
    }""")
    for node in model.graph:
        node.name = f"n_{node.outputs[0].name}"
    model = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))
    [site] = sites(model, PoolMean())
    assert set(site.before) == {"n_c", "n_r", "n_m", "n_y"}
    assert set(site.after) == {"n_c", "n_r", "n_m.pool", "n_y"}


GUARDS = {
    "not the mean over all spatial axes": MEAN.replace("{-1, 2}", "{1, 2}").replace("2, 1, 1] y", "1, 1, 4] y"),
    "dtype is INT32, not FLOAT": MEAN.replace("float", "int32"),
    "dtype is DOUBLE, not FLOAT": MEAN.replace("float", "double"),
    "the mean of nothing": MEAN.replace("3, 4] x", "0, 4] x"),
    "the rank is unknown": MEAN.replace("(x, axes)", "(r, axes)").replace("> {", "> {\n r = Reshape(x, s)").replace(
        "float[n, 2, 3, 4] x", "float[n, 2, 3, 4] x, int64[4] s"),
}  # fmt: skip


@pytest.mark.parametrize("reason", GUARDS)
def test_guard(reason: str) -> None:
    model = graph(GUARDS[reason])
    before = serialized(model)
    assert [s.reason for s in sites(model, PoolMean())] == [reason]
    assert serialized(model) == before


@pytest.mark.parametrize("body", [
    MEAN.replace("(x, axes)", "(x)").replace("[n, 2, 1, 1] y", "[1, 1, 1, 1] y"),
    MEAN.replace("x)", "x, int64[2] axes)", 1).replace(" <int64[2] axes = {-1, 2}>", ""),
    MEAN.replace("[n, 2, 3, 4] x", "[n, 2] x").replace("2, 1, 1] y", "1] y").replace("int64[2] axes = {-1, 2}",
                                                                              "int64[1] axes = {1}"),
])  # fmt: skip
def test_axes_of_no_pool(body: str) -> None:
    assert [s.reason for s in sites(graph(body), PoolMean())] == ["not the mean over all spatial axes"]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.integers(0, 3), st.booleans(), st.integers(0, 1 << 16))
def test_properties(spatial: list[int], batch: int, keep: bool, seed: int) -> None:
    names, axes = ", ".join(f"s{i}" for i in range(len(spatial))), ", ".join(str(i + 2) for i in range(len(spatial)))
    reduced = "".join(", 1" for _ in spatial) if keep else ""
    model = graph(f"""g (float[n, 3, {names}] x) => (float[n, 3{reduced}] y)
        <int64[{len(spatial)}] axes = {{{axes}}}> {{ y = ReduceMean<keepdims = {int(keep)}>(x, axes) }}""")
    x = {"x": np.random.default_rng(seed).standard_normal((batch, 3, *spatial)).astype(np.float32)}
    before, interface = compute(model, x), Interface.of(model)
    assert [s.reason for s in sites(model, PoolMean())] == [None]
    assert Interface.of(model) == interface
    # n numbers are summed in any order: n·eps of their magnitudes, relative to which the mean may be small
    scale = np.abs(x["x"]).max(initial=1.0)
    apart = np.abs(compute(model, x)["y"] - before["y"]).max(initial=0.0)
    assert apart <= 2 * np.prod(spatial) * np.finfo(np.float32).eps * scale
    assert sites(model, PoolMean()) == ()


class Mean(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = torch.nn.Conv2d(2, 8, 3), torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(torch.relu(self.conv(x)).mean((2, 3)))
        return out


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_real_module(exporter: str) -> None:
    torch.manual_seed(0)
    example = torch.randn(2, 2, 6, 6)
    model = EXPORTERS[exporter](Mean().eval(), example)
    x = {"x": example.numpy()}
    before = compute(model, x)
    assert [s.reason for s in sites(model, PoolMean())] == [None]
    assert distance(compute(model, x), before)[0] <= reassociation(model)


def test_real_model() -> None:
    model = export(digits_cnn.recipe(), opset=20, ir_version=10).model
    x = {"image": np.random.default_rng(0).uniform(0, 1, (5, 1, 8, 8)).astype(np.float32)}
    before = compute(model, x)
    assert [s.reason for s in sites(model, PoolMean())] == [None]
    assert distance(compute(model, x), before)[0] <= reassociation(model)
