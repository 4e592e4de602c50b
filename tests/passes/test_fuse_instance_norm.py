from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.interface import Interface
from dlc.passes.fuse_instance_norm import FuseInstanceNorm
from dlc.passes.fuse_layer_norm import FuseLayerNorm
from dlc.tolerance import EPS32, distance
from tests.passes.exported import EXPORTERS
from tests.passes.texts import compute, expected, graph, serialized, sites, text

CONSTANTS = "int64[2] axes = {2, 3}, float two = {2}, float eps = {0.00001}"
PARAMETERS = "float[3, 1, 1] gamma = {1, 2, 3}, float[1, 3, 1, 1] beta = {3, 2, 1}"
NORM = f"""g (float[n, 3, h, w] x) => (float[n, 3, h, w] y) <{CONSTANTS}, {PARAMETERS}> {{
    m = ReduceMean<keepdims = 1>(x, axes)
    d = Sub(x, m)
    q = Pow(d, two)
    v = ReduceMean<keepdims = 1>(q, axes)
    a = Add(v, eps)
    s = Sqrt(a)
    z = Div(d, s)
    g = Mul(z, gamma)
    y = Add(g, beta)
}}"""
RESTORED = "u = ReduceMean<keepdims = 0>(q, axes)\n v = Reshape(u, kept)"
# What the dynamo exporter writes for x.mean() and x.var(): two means, two differences, a variance without its axes.
TWICE = (
    NORM.replace("q = Pow(d, two)", "k = ReduceMean<keepdims = 1>(x, behind)\n e = Sub(x, k)\n q = Mul(e, e)")
    .replace("v = ReduceMean<keepdims = 1>(q, axes)", RESTORED)
    .replace("float two = {2}", "int64[2] behind = {-1, -2}, int64[4] kept = {0, 3, 1, 1}")
)
FORMS = {
    "quotient": NORM,
    "twice": TWICE,
    "reciprocal": NORM.replace("z = Div(d, s)", "r = Reciprocal(s)\n z = Mul(r, d)"),
    "no parameters": NORM.replace("y = Add(g, beta)", "y = Relu(g)").replace("g = Mul(z, gamma)", "g = Neg(z)")
    .replace(f", {PARAMETERS}", ""),
    "division and subtraction": NORM.replace("Mul(z, gamma)", "Div(z, gamma)").replace("Add(g, beta)", "Sub(beta, g)"),
}  # fmt: skip


def parsed(body: str, header: str = '<ir_version: 10, opset_import: ["" : 20]>') -> ir.Model:
    """With the shapes of inner values, as exporters state them."""
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(graph(body, header)), data_prop=True))


def op_types(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def parameters(model: ir.Model) -> list[list[float]]:
    (node,) = (n for n in model.graph if n.op_type == "InstanceNormalization")
    arrays = [ir.convenience.get_const_tensor(v) for v in node.inputs[1:] if v is not None]
    return [a.numpy().tolist() for a in arrays if a is not None]


def test_golden() -> None:
    model = parsed(NORM)
    assert [s.reason for s in sites(model, FuseInstanceNorm())] == [None]
    assert text(model) == expected("""
        y = InstanceNormalization(x, y.scale, y.bias)
        y.scale: [3]
        y.bias: [3]
    """)
    assert parameters(model) == [[1, 2, 3], [3, 2, 1]]
    assert next(iter(model.graph)).attributes.get_float("epsilon", 0.0) == float(np.float32(1e-5))
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


THERE = """g (float[n, 3, h, w] x) => (float[n, 3, h, w] y)
    <float[3] scale = {1, 2, 3}, float[3] bias = {3, 2, 1}, float[3, 1, 1] c = {2, 4, 8}, float one = {1}> {
    i = InstanceNormalization<epsilon = 0.5>(x, scale, bias)
    g = Mul(c, i)
    y = Sub(g, one)
}"""


def test_golden_behind_an_operator() -> None:
    model = parsed(THERE)
    assert [s.reason for s in sites(model, FuseInstanceNorm())] == [None]
    assert text(model) == expected("""
        y = InstanceNormalization(x, y.scale, y.bias)
        y.scale: [3]
        y.bias: [3]
    """)
    assert parameters(model) == [[2, 8, 24], [5, 7, 7]]
    assert next(iter(model.graph)).attributes.get_float("epsilon", 0.0) == 0.5


def test_what_follows_is_left_from_the_first_that_is_no_constant_per_channel() -> None:
    body = THERE.replace("y = Sub(g, one)", "y = Mul(g, x)").replace(", float one = {1}", "")
    model = parsed(body)
    assert [s.reason for s in sites(model, FuseInstanceNorm())] == [None]
    assert op_types(model) == ["InstanceNormalization", "Mul"]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.sampled_from([*sorted(FORMS), "there"]), st.integers(0, 3), st.integers(1, 4), st.integers(2, 4),
    st.integers(0, 1 << 16),
)  # fmt: skip
def test_properties(form: str, batch: int, height: int, width: int, seed: int) -> None:
    model = parsed(THERE if form == "there" else FORMS[form])
    feeds = {"x": np.random.default_rng(seed).standard_normal((batch, 3, height, width)).astype(np.float32)}
    before, interface = compute(model, feeds), Interface.of(model)
    assert pipeline.run(model, [FuseInstanceNorm()])[0].modified
    assert Interface.of(model) == interface
    assert "InstanceNormalization" in op_types(model)
    assert len(model.graph) <= 3
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    # x * a + (beta - mean * a), a = gamma / deviation: eps * (|x| + |mean|) / deviation, below 64 in draws of 2 numbers
    # or more; n terms are summed for the mean, and 8 operations follow. beta is at most 3 times the output's scale.
    assert distance(compute(model, feeds), before)[0] <= 3 * 64 * (height * width + 8) * EPS32
    assert not pipeline.run(model, [FuseInstanceNorm()])[0].modified


ODD = [0.0, 1.0, -2.0, np.inf, -np.inf, np.nan, 1e30, -1e30]


@pytest.mark.parametrize("body", [*FORMS.values(), THERE], ids=[*FORMS, "there"])
def test_infinities_and_nans_stay(body: str) -> None:
    model = parsed(body)
    rng = np.random.default_rng(0)
    feeds = {"x": rng.choice(ODD, (200, 3, 1, 3), p=[0.3, 0.2, 0.2, *[0.06] * 5]).astype(np.float32)}
    before = compute(model, feeds)["y"]
    assert [s.reason for s in sites(model, FuseInstanceNorm())] == [None]
    after = compute(model, feeds)["y"]
    assert np.array_equal(np.isnan(after), np.isnan(before))
    assert np.array_equal(np.isinf(after), np.isinf(before))


AXES = "the means are not over all axes from the third on, kept"
READER = "a value in between has another reader or is a graph output"
OUTPUTS = "float[n, 3, h, w] y)"
RANGE = "a parameter leaves the range of FLOAT"
FOLLOWS = "already fused, and no constant per channel follows"
NOT_DIVIDED = "the difference is not divided by the square root"
GUARDS = [
    ("epsilon is not constant", NORM.replace("w] x)", "w] x, float eps)").replace(", float eps = {0.00001}", "")),
    ("dtype is DOUBLE, not FLOAT", NORM.replace("float", "double")),
    (AXES, NORM.replace("axes = {2, 3}", "axes = {1, 2}")),
    (AXES, NORM.replace("axes = {2, 3}", "axes = {3, 1}")),
    (AXES, NORM.replace("v = ReduceMean<keepdims = 1>(q, axes)", "v = ReduceMean<keepdims = 1>(q, third)")
     .replace("float two", "int64[1] third = {3}, float two")),
    (AXES, TWICE.replace("kept = {0, 3, 1, 1}", "kept = {0, 1, 3, 1}")),
    (NOT_DIVIDED, NORM.replace("Div(d, s)", "Div(s, d)")),
    (NOT_DIVIDED, NORM.replace("z = Div(d, s)", "o = Sub(m, x)\n z = Div(o, s)")),
    (NOT_DIVIDED, TWICE.replace("m = ReduceMean<keepdims = 1>(x, axes)", "m = ReduceMean<keepdims = 1>(x, third)")
     .replace("int64[2] behind", "int64[1] third = {3}, int64[2] behind")),
    ("the number of channels is dynamic", NORM.replace("[n, 3, h, w]", "[n, c, h, w]")),
    ("a gamma of the normalised shape follows: a layer normalisation",
     NORM.replace("[n, 3, h, w]", "[n, 3, 1, 2]").replace("float[3, 1, 1] gamma = {1, 2, 3}",
                                                          "float[1, 2] gamma = {1, 2}")),
    (RANGE, NORM.replace("gamma = {1, 2, 3}", "gamma = {1e-40, 1e-40, 1e-40}")),
    (RANGE, THERE.replace("c = {2, 4, 8}", "c = {2, 4, 2e38}")),
    *((READER, NORM.replace(OUTPUTS, f"{OUTPUTS[:-1]}, float[n, 3, {size}] {value})"))
      for value, size in (("m", "1, 1"), ("d", "h, w"), ("q", "h, w"), ("v", "1, 1"), ("a", "1, 1"), ("s", "1, 1"))),
    (READER, NORM.replace(OUTPUTS, f"{OUTPUTS[:-1]}, float[n, 3, h, w] o)").replace("y = Add", "o = Neg(d)\n y = Add")),
    (FOLLOWS, THERE.replace("Mul(c, i)", "Mul(x, i)").replace("float[3, 1, 1] c = {2, 4, 8}, ", "")),
    (FOLLOWS, THERE.replace(OUTPUTS, f"{OUTPUTS[:-1]}, float[n, 3, h, w] i)")),
    (FOLLOWS, THERE.replace("Mul(c, i)", "Div(c, i)")),
    (FOLLOWS, THERE.replace("c = {2, 4, 8}", "c = {2, 4, inf}")),
    (FOLLOWS, THERE.replace("[n, 3, h, w]", "[n, 3, h, 3]").replace("float[3, 1, 1] c", "float[3] c")),
    (FOLLOWS, THERE.replace("float[3, 1, 1] c", "float[1, 1, 3, 1, 1] c").replace(OUTPUTS, "float[1, n, 3, h, w] y)")),
    ("a parameter is not constant",
     THERE.replace("w] x)", "w] x, float[3] scale)").replace("float[3] scale = {1, 2, 3}, ", "")),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "body"), GUARDS, ids=[f"{i}: {g[0][:40]}" for i, g in enumerate(GUARDS)])
def test_guard(reason: str, body: str) -> None:
    model = parsed(body)
    before = serialized(model)
    (record,) = pipeline.run(model, [FuseInstanceNorm()])
    assert [s.reason for s in record.sites] == [reason]
    assert not record.modified
    assert serialized(model) == before


def test_unknown_rank_and_type_are_guards() -> None:
    model = parsed(THERE)
    x = model.graph.inputs[0]
    x.type = ir.TensorType(ir.DataType.FLOAT16)
    assert [s.reason for s in FuseInstanceNorm()(model).sites] == ["dtype is FLOAT16, not FLOAT"]  # type: ignore[attr-defined]
    x.shape = None
    assert [s.reason for s in FuseInstanceNorm()(model).sites] == ["the rank is unknown"]  # type: ignore[attr-defined]


def test_layer_normalisation_is_left_to_its_own_rewrite() -> None:
    body = NORM.replace("[n, 3, h, w]", "[n, 3, 1, 2]").replace(PARAMETERS, "float[1, 2] gamma = {1, 2}")
    model = parsed(body.replace("y = Add(g, beta)", "y = Relu(g)"))
    assert [s.applied for s in sites(model, FuseInstanceNorm())] == [False]
    assert [s.applied for s in sites(model, FuseLayerNorm())] == [True]


class Written(torch.nn.Module):
    """By hand, with a variance; or a mean of squares and a parameter per channel."""

    def __init__(self, *, affine: bool) -> None:
        super().__init__()
        self.affine = affine
        self.gamma, self.beta = torch.nn.Parameter(torch.rand(8, 1, 1)), torch.nn.Parameter(torch.rand(1, 8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        d = x - x.mean((2, 3), keepdim=True)
        if not self.affine:
            return d / torch.sqrt(x.var((2, 3), keepdim=True, unbiased=False) + 1e-5)
        return self.gamma * (d * torch.rsqrt((d * d).mean((2, 3), keepdim=True) + 1e-5)) + self.beta


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("affine", [False, True])
def test_real_module(exporter: str, affine: bool) -> None:
    torch.manual_seed(0)
    example = torch.randn(2, 8, 5, 5)
    model = EXPORTERS[exporter](Written(affine=affine).eval(), example)
    x = {"x": example.numpy()}
    before = compute(model, x)
    assert [s.reason for s in sites(model, FuseInstanceNorm())] == [None]
    assert op_types(model) == ["InstanceNormalization"]
    # Sums of 25 numbers; the mean is within the deviation here, so that nothing cancels.
    assert distance(compute(model, x), before)[0] <= 4 * (25 + 8) * EPS32


class Styled(torch.nn.Module):
    """The operator of torch, with a scale and a shift of the user's own."""

    def __init__(self, norm: torch.nn.Module, rank: int) -> None:
        super().__init__()
        self.norm, shape = norm, (8, *[1] * (rank - 2))
        self.gamma, self.beta = torch.nn.Parameter(torch.rand(shape)), torch.nn.Parameter(torch.rand(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.norm(x) * self.gamma + self.beta
        return out


NORMS = [torch.nn.InstanceNorm1d, torch.nn.InstanceNorm2d, torch.nn.InstanceNorm3d]


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("rank", [3, 4, 5])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # torch compares the number of channels
@pytest.mark.filterwarnings("ignore:ONNX export mode is set to TrainingMode.EVAL:UserWarning")  # the same in both modes
def test_the_modules_of_torch(exporter: str, affine: bool, rank: int) -> None:
    torch.manual_seed(0)
    example = torch.randn(2, 8, *[4] * (rank - 2))
    model = EXPORTERS[exporter](Styled(NORMS[rank - 3](8, affine=affine), rank).eval(), example)
    x = {"x": example.numpy()}
    before = compute(model, x)
    assert op_types(model) == ["InstanceNormalization", "Mul", "Add"]
    assert [s.reason for s in sites(model, FuseInstanceNorm())] == [None]
    assert op_types(model) == ["InstanceNormalization"]
    # The statistics are the same; two products and two sums are rounded in another order.
    assert distance(compute(model, x), before)[0] <= 4 * 4 * EPS32
