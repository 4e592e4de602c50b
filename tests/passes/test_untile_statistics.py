from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.interface import Interface
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.fold_batch_norm import FoldBatchNorm
from dlc.passes.untile_statistics import UntileStatistics
from dlc.tolerance import distance, reassociation
from tests.passes.exported import dynamo
from tests.passes.texts import compute, expected, graph, serialized, sites, text

PARAMETERS = """float[3] gamma = {1, 2, 3}, float[3] beta = {3, 2, 1}, float[3] mean = {0.5, 1, 2},
    float[3] var = {1, 2, 4}"""
NORM = f"""g (float[n, 3, 2, 5] x) => (float[n, 3, 2, 5] y)
    <int64[4] split = {{1, -1, 2, 5}}, int64[4] merge = {{-1, 3, 2, 5}}, {PARAMETERS}> {{
    n = Shape<start = 0, end = 1>(x)
    s = Reshape(x, split)
    g = Tile(gamma, n)
    b = Tile(beta, n)
    m = Tile(mean, n)
    v = Tile(var, n)
    z = BatchNormalization<epsilon = 0.5>(s, g, b, m, v)
    y = Reshape(z, merge)
}}"""
TWICE = """float[6] g = {1, 2, 3, 1, 2, 3}, float[6] b = {3, 2, 1, 3, 2, 1}, float[6] m = {0.5, 1, 2, 0.5, 1, 2},
    float[6] v = {1, 2, 4, 1, 2, 4}"""
FIXED = f"""g (float[2, 3, 2, 5] x) => (float[2, 3, 2, 5] y)
    <int64[4] split = {{1, 6, 2, 5}}, int64[4] merge = {{2, 3, 2, 5}}, {TWICE}> {{
    s = Reshape(x, split)
    z = BatchNormalization<epsilon = 0.5>(s, g, b, m, v)
    y = Reshape(z, merge)
}}"""


def parsed(body: str) -> ir.Model:
    """With the shapes of inner values, as exporters state them."""
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(graph(body)), data_prop=True))


def test_golden() -> None:
    model = parsed(NORM)
    assert [s.reason for s in sites(model, UntileStatistics())] == [None]
    assert text(model) == expected("""
        y = BatchNormalization(x, gamma, beta, mean, var)
        gamma: [3]
        beta: [3]
        mean: [3]
        var: [3]
    """)
    assert next(iter(model.graph)).attributes.get_float("epsilon", 0.0) == 0.5
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_golden_with_tiled_constants() -> None:
    model = parsed(FIXED)
    assert [s.reason for s in sites(model, UntileStatistics())] == [None]
    assert text(model) == expected("""
        y = BatchNormalization(x, y.parameter, y.parameter_1, y.parameter_2, y.parameter_3)
        y.parameter: [3]
        y.parameter_1: [3]
        y.parameter_2: [3]
        y.parameter_3: [3]
    """)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.booleans(), st.integers(1, 4), st.integers(0, 1 << 16))
def test_properties(fixed: bool, batch: int, seed: int) -> None:
    model = parsed(FIXED if fixed else NORM)
    feeds = {"x": np.random.default_rng(seed).standard_normal((2 if fixed else batch, 3, 2, 5)).astype(np.float32)}
    before, interface = compute(model, feeds), Interface.of(model)
    assert pipeline.run(model, [UntileStatistics()])[0].modified
    assert Interface.of(model) == interface
    assert np.array_equal(compute(model, feeds)["y"], before["y"])
    assert not pipeline.run(model, [UntileStatistics()])[0].modified


RESHAPES = "the reshapes do not lay the batch out as channels, and back"
READER = "a value in between has another reader or is a graph output"
SAME = "the parameters are not the same for each element of the batch"
OUTPUTS = "float[n, 3, 2, 5] y)"
GUARDS = [
    (RESHAPES, NORM.replace("split = {1, -1, 2, 5}", "split = {1, -1, 5, 2}")),
    (RESHAPES, FIXED.replace("split = {1, 6, 2, 5}", "split = {2, 6, 1, 5}")),
    (RESHAPES, NORM.replace("merge = {-1, 3, 2, 5}", "merge = {-1, 3, 5, 2}").replace(OUTPUTS, "float[n, 3, 5, 2] y)")),
    (RESHAPES, NORM.replace("y = Reshape(z, merge)", "o = Relu(z)\n y = Reshape(o, merge)")),
    (RESHAPES, NORM.replace("[n, 3, 2, 5]", "[n, c, 2, 5]")),
    (RESHAPES, NORM.replace("split = {1, -1, 2, 5}", "split = {0, -1, 2, 5}")),
    (READER, NORM.replace(OUTPUTS, f"{OUTPUTS[:-1]}, float[1, t, 2, 5] s)")),
    (READER, NORM.replace(OUTPUTS, f"{OUTPUTS[:-1]}, float[1, t, 2, 5] z)")),
    (SAME, NORM.replace("v = Tile(var, n)", "w = Add(n, n)\n q = Tile(var, n)\n v = Relu(q)")),
    (SAME, NORM.replace("n = Shape<start = 0, end = 1>(x)", "n = Shape<start = 1, end = 2>(x)")),
    (SAME, FIXED.replace("float[6] v = {1, 2, 4, 1, 2, 4}", "float[6] v = {1, 2, 4, 1, 2, 5}")),
    (SAME, FIXED.replace("5] x)", "5] x, float[6] v)").replace(",\n    float[6] v = {1, 2, 4, 1, 2, 4}", "")),
    ("runs in training mode", FIXED.replace("<epsilon = 0.5>", "<training_mode = 1>")
     .replace("z = BatchN", "z, rm, rv = BatchN")),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "body"), GUARDS, ids=[f"{i}: {g[0][:40]}" for i, g in enumerate(GUARDS)])
def test_guard(reason: str, body: str) -> None:
    model = parsed(body)
    before = serialized(model)
    (record,) = pipeline.run(model, [UntileStatistics()])
    assert [s.reason for s in record.sites] == [reason]
    assert not record.modified
    assert serialized(model) == before


class Tracked(torch.nn.Module):
    def __init__(self, *, affine: bool) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 8, 3)
        self.norm = torch.nn.InstanceNorm2d(8, affine=affine, track_running_stats=True)
        self.norm.running_mean = torch.rand(8)
        self.norm.running_var = torch.rand(8) + 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.norm(self.conv(x))
        return out


def fixed_batch(module: torch.nn.Module, example: torch.Tensor) -> ir.Model:
    """As the old exporter writes it: with a dynamic batch it refuses this module."""
    file: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (example,), file, dynamo=False, opset_version=17, input_names=["x"],
                          output_names=["y"], do_constant_folding=False)  # fmt: skip
    model = ir.from_proto(onnx.load_from_string(file.getvalue()))
    Canonicalize()(model)
    return model


@pytest.mark.parametrize("export", [dynamo, fixed_batch])
@pytest.mark.parametrize("affine", [False, True])
def test_real_module(export: Any, affine: bool) -> None:
    torch.manual_seed(0)
    example = torch.randn(2, 2, 7, 7)
    model = export(Tracked(affine=affine).eval(), example)
    x = {"x": example.numpy()}
    before = compute(model, x)
    assert [s.reason for s in sites(model, UntileStatistics())] == [None]
    assert [n.op_type for n in model.graph] == ["Conv", "BatchNormalization"]
    assert np.array_equal(compute(model, x)["y"], before["y"])
    bound = reassociation(model)
    assert [s.reason for s in sites(model, FoldBatchNorm())] == [None]
    assert distance(compute(model, x), before)[0] <= bound
