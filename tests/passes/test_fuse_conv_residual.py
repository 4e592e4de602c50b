from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.interface import Interface
from dlc.passes.fuse_conv_residual import PARAMETERS, FuseConvResidual
from dlc.tolerance import EPS32, distance, reassociation
from tests.passes.exported import EXPORTERS
from tests.passes.texts import compute, expected, graph, serialized, sites, text
from tests.passes.weights import weighted

CONV = """g (float[n, 2, 5] x, float[n, 2, 5] r) => (float[n, 2, 5] y) <float[2, 2, 1] w = {1, 2, 3, 4}> {
    c = Conv(x, w)
    s = Add(c, r)
    y = LeakyRelu<alpha = 0.25>(s)
}"""
C = "float[n, 2, 5] c"
NO_SHAPE = "what is added is not known to have the shape of the convolution"


def test_golden() -> None:
    model = typed(CONV)
    assert [s.reason for s in sites(model, FuseConvResidual())] == [None]
    assert text(model) == expected("""
        y = FusedConv(x, w, , r)
        w: [2,2,1]""")
    attributes = model.graph.node(0).attributes
    assert attributes.get_string("activation") == "LeakyRelu"
    assert attributes.get_floats("activation_params") == (0.25,)
    assert attributes.get_ints("kernel_shape") == (1,)
    assert model.opset_imports["com.microsoft"] == 1


def test_golden_sum_alone_with_bias() -> None:
    body = (
        CONV.replace("(x, w)", "(x, w, b)")
        .replace("s = Add(c, r)", "y = Add(r, c)")
        .replace("<float[2, 2, 1]", "<float[2] b = {1, 2}, float[2, 2, 1]")
        .replace("y = LeakyRelu<alpha = 0.25>(s)", "")
    )
    model = typed(body)
    assert [s.reason for s in sites(model, FuseConvResidual())] == [None]
    assert text(model).splitlines()[0] == "y = FusedConv(x, w, b, r)"
    assert "activation" not in model.graph.node(0).attributes


def test_an_activation_that_the_kernel_does_not_know_stays() -> None:
    model = typed(CONV.replace("LeakyRelu<alpha = 0.25>", "Softplus"))
    assert [s.reason for s in sites(model, FuseConvResidual())] == [None]
    assert [n.op_type for n in model.graph] == ["FusedConv", "Softplus"]


def typed(body: str) -> ir.Model:
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(graph(body))))


GUARDS = [
    ("the convolution has another reader or is a graph output", CONV.replace("5] y)", f"5] y, {C})")),
    ("the convolution has another reader or is a graph output",
     CONV.replace("5] y)", "5] y, float[n, 2, 5] z)").replace("s = Add", "z = Neg(c)\n s = Add")),
    ("dtype is DOUBLE, not FLOAT", CONV.replace("float", "double")),
    (NO_SHAPE, CONV.replace("float[n, 2, 5] r", "float[n, 2, 1] r")),
    (NO_SHAPE, CONV.replace("float[n, 2, 5] r", "float[n, 2, m] r")),
    ("the shape of the kernel is unknown", CONV.replace("5] r)", "5] r, float[2, 2, k] w)").replace(
        "<float[2, 2, 1] w = {1, 2, 3, 4}>", "<float[n, 2, 5] c>").replace(
        "Conv(x", 'Conv<auto_pad = "SAME_UPPER">(x')),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "body"), GUARDS)
def test_guard(reason: str, body: str) -> None:
    model = typed(body)
    before = serialized(model)
    assert [s.reason for s in sites(model, FuseConvResidual())] == [reason]
    assert serialized(model) == before


@pytest.mark.parametrize("body", [
    CONV.replace("Conv(x, w)", "Neg(x)").replace("<float[2, 2, 1] w = {1, 2, 3, 4}>", ""),
    CONV.replace("5] x, float[n, 2, 5] r)", "5] x)").replace("<float", "<float[2, 1] r = {1, 2}, float"),
    CONV.replace("(c, r)", "(c, c)"),
])  # fmt: skip
def test_a_sum_without_convolution_or_residual_is_no_site(body: str) -> None:
    assert sites(typed(body), FuseConvResidual()) == ()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(0, 3), st.integers(1, 3), st.integers(1, 2), st.sampled_from(["", *PARAMETERS]), st.booleans(),
    st.integers(0, 1 << 16),
)  # fmt: skip
def test_properties(batch: int, spatial: int, groups: int, act: str, bias: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, kernel = ", ".join(["6"] * spatial), ", ".join(["3"] * spatial)
    last = f"s = Add(c, r)\n y = {act}(s)" if act else "y = Add(c, r)"
    pads = ", ".join(["2"] * 2 * spatial)
    dilations = ", ".join(["2"] * spatial)
    body = f"""g (float[n, 4, {size}] x, float[n, 4, {size}] r, float[4, {4 // groups}, {kernel}] w, float[4] b)
        => (float[n, 4, {size}] y) {{
        c = Conv<group = {groups}, pads = [{pads}], dilations = [{dilations}]>(x, w{", b" if bias else ""})
        {last}
    }}"""
    weights = {"w": rng.uniform(-1, 1, (4, 4 // groups, *[3] * spatial)).astype(np.float32),
               "b": rng.uniform(-1, 1, 4).astype(np.float32)}  # fmt: skip
    model = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(weighted(body, weights))))
    shape = (batch, 4, *[6] * spatial)
    feeds = {"x": rng.uniform(-1, 1, shape).astype(np.float32), "r": rng.uniform(-1, 1, shape).astype(np.float32)}
    before, interface = compute(model, feeds)["y"], Interface.of(model)
    assert [s.reason for s in sites(model, FuseConvResidual())] == [None]
    assert Interface.of(model) == interface
    after = compute(model, feeds)["y"]
    terms = 4 // groups * 3**spatial + 2
    # Two orders of one sum of terms of at most 1, and an activation of slope 1 at most, good to 2 eps.
    assert np.abs(after - before).max(initial=0.0) <= (2 * terms**2 + 4) * EPS32
    assert sites(model, FuseConvResidual()) == ()


@pytest.mark.parametrize("act", ["", *PARAMETERS])
def test_nan_and_infinity(act: str) -> None:
    last = f"y = {act}(s)" if act else "y = Identity(s)"
    body = CONV.replace("y = LeakyRelu<alpha = 0.25>(s)", last)
    model = typed(body)
    x = np.ones((1, 2, 5), np.float32)
    x[0, 0, :4] = [np.nan, np.inf, -np.inf, np.inf]
    r = np.zeros_like(x)
    r[0, :, 3] = -np.inf
    before = compute(model, {"x": x, "r": r})["y"]
    sites(model, FuseConvResidual())
    assert np.allclose(compute(model, {"x": x, "r": r})["y"], before, rtol=4 * EPS32, atol=0, equal_nan=True)


class Residual(torch.nn.Module):
    """A block of a temporal convolutional network."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv1d(4, 4, 3, padding=2, dilation=2)
        self.second = torch.nn.Conv1d(4, 4, 3, padding=4, dilation=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_real_module(exporter: str) -> None:
    torch.manual_seed(0)
    example = torch.randn(2, 4, 16)
    model = EXPORTERS[exporter](Residual().eval(), example)
    before = compute(model, {"x": example.numpy()})
    assert [s.reason for s in sites(model, FuseConvResidual())] == [None]
    assert [n.op_type for n in model.graph] == ["Conv", "Relu", "FusedConv"]
    assert distance(compute(model, {"x": example.numpy()}), before)[0] <= reassociation(model)
