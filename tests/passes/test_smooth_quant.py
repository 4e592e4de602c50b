from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.passes.fuse_layer_norm import FuseLayerNorm
from dlc.passes.smooth_quant import SmoothQuant
from dlc.smoothing import loss, smoothing
from dlc.types import Array, Floats
from tests.passes.exported import EXPORTERS
from tests.passes.texts import compute, expected, graph, serialized, sites, text

NET = """g (float[n, 2] x) => (float[n, 2] y, float[n, 2] z)
    <float[2] gamma = {4, 1}, float[2] beta = {8, 1}, float[2, 2] w = {1, 2, 3, 4}, float[2, 2] v = {1, 2, 3, 4},
     float[2] b = {1, 2}> {
    [norm] h = LayerNormalization(x, gamma, beta)
    [one] y = MatMul(h, w)
    [two] z = Gemm<transB = 1>(h, v, b)
}"""
FACTORS: dict[str, Floats] = {"h": np.array([4.0, 0.5])}
X = {"x": np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)}


def array(model: ir.Model, node: str, index: int) -> list[float]:
    value = next(n for n in model.graph if n.name == node).inputs[index]
    assert value is not None
    assert value.const_value is not None
    numbers: list[float] = value.const_value.numpy().reshape(-1).tolist()
    return numbers


def same(model: ir.Model, before: dict[str, Array]) -> bool:
    after = compute(model, X)
    return all(np.array_equal(after[name], before[name]) for name in before)


def test_golden_folded_into_the_norm() -> None:
    model = graph(NET)
    before = dict(compute(model, X))
    [site] = sites(model, SmoothQuant(factors=FACTORS))
    assert site.applied
    assert [n.op_type for n in model.graph] == ["LayerNormalization", "MatMul", "Gemm"]
    assert (array(model, "norm", 1), array(model, "norm", 2)) == ([1, 2], [2, 2])
    assert array(model, "one", 1) == [4, 8, 1.5, 2]
    assert array(model, "two", 1) == [4, 1, 12, 2]
    assert same(model, before)


def test_golden_beside_a_residual() -> None:
    model = graph(NET.replace("z = Gemm<transB = 1>(h, v, b)", "z = Add(h, x)"))
    before = dict(compute(model, X))
    sites(model, SmoothQuant(factors=FACTORS))
    assert text(model).startswith(
        expected("""
        h = LayerNormalization(x, gamma, beta)
        h.smooth = Mul(h, h.inverse)
        y = MatMul(h.smooth, one.weight)
        z = Add(h, x)
    """)
    )
    assert same(model, before)


GUARDS = {
    "no factors for its output": (NET, {}),
    "the factors are not one positive number per channel": (NET, {"h": np.array([1.0, 0.0])}),
    "a smoothed weight leaves the range of its type": (NET, {"h": np.array([1e39, 1.0])}),
    "it is not over the last axis alone": (
        NET.replace("LayerNormalization(x, gamma, beta)", "LayerNormalization<axis = 0>(x, g2)").replace(
            "float[n, 2] x", "float[1, 2] x").replace("<float[2] gamma", "<float[1, 2] g2 = {1, 1}, float[2] gamma"),
        FACTORS,
    ),
    "no MatMul or Gemm reads it": (
        NET.replace("MatMul(h, w)", "Relu(h)").replace("Gemm<transB = 1>(h, v, b)", "Neg(h)"), FACTORS,
    ),
    "the weight of MatMul is not constant": (
        NET.replace("float[n, 2] x)", "float[n, 2] x, float[2, 2] u)").replace("MatMul(h, w)", "MatMul(h, u)").replace(
            "Gemm<transB = 1>(h, v, b)", "Neg(h)"), FACTORS,
    ),
    "its scale or bias is not a constant, one per channel": (
        NET.replace("float[n, 2] x)", "float[n, 2] x, float[2] s)").replace("(x, gamma, beta)", "(x, s, beta)"),
        FACTORS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", GUARDS)
def test_guard(reason: str) -> None:
    body, factors = GUARDS[reason]
    model = graph(body)
    before = serialized(model)
    (record,) = pipeline.run(model, [SmoothQuant(factors=factors)])
    assert [s.reason for s in record.sites] == [reason]
    assert not record.modified
    assert serialized(model) == before


class Block(torch.nn.Module):
    """A norm read by two products, and one that a residual reads too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.after = torch.nn.LayerNorm(16), torch.nn.LayerNorm(16)
        self.left, self.right, self.out = (torch.nn.Linear(16, 16) for _ in range(3))
        with torch.no_grad():
            self.before.weight[3], self.after.weight[5] = 40.0, 30.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.before(x)
        k = self.after(torch.relu(self.left(h)) + self.right(h))
        result: torch.Tensor = k + self.out(k)
        return result


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_exported_numbers_stay_bit_for_bit(exporter: str) -> None:
    example = torch.randn(2, 7, 16)
    model = EXPORTERS[exporter](Block().eval(), example)
    FuseLayerNorm()(model)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 7, 16)).astype(np.float32)}
    before = compute(model, feeds)["y"]
    found = smoothing(model, [feeds])
    assert len(found) == 2  # an outlier channel in each
    assert [s.reason for s in sites(model, SmoothQuant(factors=found))] == [None, None]
    assert sum(n.op_type == "Mul" for n in model.graph) == 1
    assert np.array_equal(compute(model, feeds)["y"], before)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 1 << 16))
def test_any_power_of_two_is_exact(channels: int, outputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)

    def written(*shape: int) -> str:
        return ", ".join(f"{v:.8g}" for v in rng.standard_normal(shape).reshape(-1))

    scale, weight = written(channels), written(channels, outputs)
    model = graph(f"""g (float[n, {channels}] x) => (float[n, {outputs}] y)
        <float[{channels}] s = {{{scale}}}, float[{channels}, {outputs}] w = {{{weight}}}> {{
        h = LayerNormalization(x, s)
        y = MatMul(h, w)
    }}""")
    x = {"x": rng.standard_normal((3, channels)).astype(np.float32)}
    before = compute(model, x)["y"]
    [site] = sites(model, SmoothQuant(factors={"h": np.exp2(rng.integers(-9, 9, channels))}))
    assert site.applied
    assert np.array_equal(compute(model, x)["y"], before)


def test_smoothing_is_only_chosen_where_it_helps() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((64, 8)).astype(np.float32), rng.standard_normal((8, 4)).astype(np.float32)
    x[:, 2] *= 100
    factors = np.ones(8)
    factors[2] = 64
    assert loss(x, w, factors) < loss(x, w, np.ones(8)) / 10  # seven of eight channels had a hundredth of the levels
    assert smoothing(graph(NET.replace("{4, 1}", "{0, 0}").replace("{8, 1}", "{0, 0}")), [X]) == {}
