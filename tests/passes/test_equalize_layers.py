from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.passes.equalize_layers import EqualizeLayers
from dlc.types import Array
from tests.passes.exported import EXPORTERS
from tests.passes.texts import compute, graph, serialized, sites, text

NET = """g (float[n, 1, 3] x) => (float[n, 1, 3] y)
    <float[2, 1, 1] w1 = {16, 1}, float[2] b1 = {4, 1}, float[1, 2, 1] w2 = {1, 4}, float zero = {0}, float six = {6}> {
    [one] c = Conv(x, w1, b1)
    r = Relu(c)
    [two] y = Conv(r, w2)
}"""


def array(model: ir.Model, node: str, index: int) -> Array:
    value = next(n for n in model.graph if n.name == node).inputs[index]
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def test_golden() -> None:
    """Ranges 16 and 1, 1 and 4: factors sqrt(16) = 4, sqrt(1/4) = 1/2; both sides become 4 and 2."""
    model = graph(NET)
    assert [s.reason for s in sites(model, EqualizeLayers())] == [
        None,
        "its output has several readers, or is a graph output",
    ]
    assert [n.op_type for n in model.graph] == ["Conv", "Relu", "Conv"]
    assert array(model, "one", 1).reshape(-1).tolist() == [4, 2]
    assert array(model, "one", 2).tolist() == [1, 2]
    assert array(model, "two", 1).reshape(-1).tolist() == [4, 2]
    assert "w1:" not in text(model)


GUARDS = {
    "Clip has a bound other than zero below: it is not homogeneous": NET.replace("Relu(c)", "Clip(c, zero, six)"),
    "LeakyRelu turns at a negative slope": NET.replace("Relu(c)", "LeakyRelu<alpha = -0.5>(c)"),
    "its output has several readers, or is a graph output": NET.replace(
        "[n, 1, 3] y)", "[n, 1, 3] y, float[n, 2, 3] r)"
    ),
    "Sigmoid reads it, not Conv": NET.replace("Relu(c)", "Sigmoid(c)"),
    "the weight of Conv has another reader": NET.replace("[two]", "k = Neg(w1)\n [two]").replace(
        "(float[n, 1, 3] y)", "(float[n, 1, 3] y, float[2, 1, 1] k)"),
    "all channels are equal already": NET.replace("{16, 1}", "{1, 4}"),
    "the scaled weights leave the range of their type": NET.replace(
        "{4, 1}", "{4, 1e30}").replace("= {1, 4}", "= {1, 1e30}"),
    "the weight of Conv is not constant": NET.replace(
        "[n, 1, 3] x)", "[n, 1, 3] x, float[1, 2, 1] v)").replace("(r, w2)", "(r, v)"),
}  # fmt: skip


@pytest.mark.parametrize("reason", GUARDS)
def test_guard(reason: str) -> None:
    model = graph(GUARDS[reason])
    before = serialized(model)
    (record,) = pipeline.run(model, [EqualizeLayers()])
    assert record.sites[0].reason == reason
    assert not record.modified
    assert serialized(model) == before


class Net(torch.nn.Module):
    """Two pairs to equalise, one with a depthwise convolution; ReLU6 bars the third."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        conv = torch.nn.Conv2d
        self.layers = torch.nn.Sequential(
            conv(3, 8, 3), torch.nn.ReLU(), conv(8, 8, 3, groups=8), conv(8, 4, 1), torch.nn.ReLU6(), conv(4, 2, 1)
        )
        with torch.no_grad():
            for layer in self.layers:
                if isinstance(layer, conv):
                    layer.weight *= torch.exp(2 * torch.randn(layer.weight.shape[0], 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layers(x)
        return result


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_exported_numbers_stay_bit_for_bit(exporter: str) -> None:
    example = torch.randn(2, 3, 8, 8)
    model = EXPORTERS[exporter](Net().eval(), example)
    x = {"x": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    before = compute(model, x)["y"]
    found = sites(model, EqualizeLayers())
    assert [s.applied for s in found] == [True, True, False, False]
    assert "not homogeneous" in str(found[2].reason)
    assert np.array_equal(compute(model, x)["y"], before)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from(["", "Relu", "LeakyRelu"]), st.integers(0, 1 << 16))
def test_properties(groups: int, width: int, activation: str, seed: int) -> None:
    """Any groups: outputs stay to the bit, and a second application finds all channels equal."""
    rng = np.random.default_rng(seed)
    channels = groups * width

    def filled(*shape: int) -> tuple[str, str]:
        numbers = np.exp2(rng.integers(-8, 8, shape[0])).reshape(-1, *[1] * (len(shape) - 1)) * rng.standard_normal(
            shape
        )
        return f"float[{', '.join(map(str, shape))}]", "{" + ", ".join(f"{v:.8g}" for v in numbers.reshape(-1)) + "}"

    (k1, w1), (kb, b1), (k2, w2) = filled(channels, 1, 2), filled(channels), filled(2 * groups, width, 1)
    middle = f"r = {activation}(c)" if activation else ""
    body = f"""g (float[n, 1, 5] x) => (float[n, {2 * groups}, 4] y) <{k1} w1 = {w1}, {kb} b1 = {b1}, {k2} w2 = {w2}> {{
        c = Conv(x, w1, b1)
        {middle}
        y = Conv<group = {groups}>({"r" if activation else "c"}, w2)
    }}"""
    model = graph(body)
    x = {"x": rng.standard_normal((2, 1, 5)).astype(np.float32)}
    before = compute(model, x)["y"]
    sites(model, EqualizeLayers())
    assert np.array_equal(compute(model, x)["y"], before)
    assert not pipeline.run(model, [EqualizeLayers()])[0].modified
