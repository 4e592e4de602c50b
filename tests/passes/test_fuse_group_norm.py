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
from dlc.passes.fuse_group_norm import FuseGroupNorm
from dlc.passes.fuse_instance_norm import FuseInstanceNorm
from dlc.tolerance import EPS32, distance
from tests.passes.exported import EXPORTERS
from tests.passes.texts import compute, expected, graph, serialized, sites, text

PARAMETERS = "float[4, 1, 1] gamma = {1, 2, 3, 4}, float[1, 4, 1, 1] beta = {4, 3, 2, 1}"
TRIVIAL = "float[2] one = {1, 1}, float[2] zero = {0, 0}"
SPLIT = "int64[3] split = {0, 2, -1}"
NORM = f"""g (float[n, 4, 3, 5] x) => (float[n, 4, 3, 5] y)
    <{SPLIT}, int64[4] merge = {{0, 4, 3, 5}}, {TRIVIAL}, {PARAMETERS}> {{
    s = Reshape(x, split)
    i = InstanceNormalization<epsilon = 0.5>(s, one, zero)
    m = Reshape(i, merge)
    g = Mul(m, gamma)
    y = Add(beta, g)
}}"""
ALONE = NORM.replace("{0, 2, -1}", "{0, 4, -1}").replace(
    TRIVIAL, "float[4] one = {1, 2, 1, 2}, float[4] zero = {0, 0, 1, 1}"
)
NEUTRAL = NORM.replace("gamma = {1, 2, 3, 4}", "gamma = {1, 1, 1, 1}").replace(
    "beta = {4, 3, 2, 1}", "beta = {0, 0, 0, 0}"
)
OPERATOR = """g (float[n, 4, h, 5] x) => (float[n, 4, h, 5] y)
    <float[4] gamma = {1, 2, 3, 4}, float[4] beta = {4, 3, 2, 1}> {
    y = GroupNormalization<num_groups = 2, epsilon = 0.5>(x, gamma, beta)
}"""
NEW, OLD = ('<ir_version: 10, opset_import: ["" : %d]>' % opset for opset in (21, 20))  # noqa: UP031 - braces
FORMS = {
    "written": (NORM, OLD),
    "constants first": (NORM.replace("Mul(m, gamma)", "Mul(gamma, m)").replace("Add(beta, g)", "Sub(g, beta)"), OLD),
    "groups scaled": (NORM.replace("one = {1, 1}", "one = {2, 3}").replace("zero = {0, 0}", "zero = {1, 2}"), OLD),
    "alone": (ALONE, OLD),
    "neutral": (NEUTRAL, OLD),
    "operator": (OPERATOR, NEW),
    "operator, sizes known": (OPERATOR.replace("h, 5", "3, 5"), NEW),
    "operator, sizes unknown": (OPERATOR.replace("h, 5", "h, w"), NEW),
    "operator, a group a channel": (OPERATOR.replace("num_groups = 2", "num_groups = 4"), NEW),
    "operator, one group": (OPERATOR.replace("num_groups = 2", "num_groups = 1"), NEW),
    "operator, three axes": (OPERATOR.replace("h, 5", "h"), NEW),
}


def parsed(body: str, header: str = OLD) -> ir.Model:
    """With the shapes of inner values, as exporters state them."""
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(graph(body, header)), data_prop=True))


def op_types(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_golden() -> None:
    model = parsed(NORM)
    assert [s.reason for s in sites(model, FuseGroupNorm())] == [None]
    assert text(model) == expected("""
        y.split = Reshape(x, split)
        y.instance_norm = InstanceNormalization(y.split, y.ones, y.zeros)
        y.merge = Reshape(y.instance_norm, merge)
        y = BatchNormalization(y.merge, y.scale, y.bias, y.mean, y.variance)
        split: [3]
        merge: [4]
        y.zeros: [2]
        y.ones: [2]
        y.mean: [4]
        y.variance: [4]
        y.scale: [4]
        y.bias: [4]
    """)
    assert model.graph.node(1).attributes.get_float("epsilon", 0.0) == 0.5
    assert model.graph.node(3).attributes.get_float("epsilon", 1.0) == 0.0
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_golden_with_a_group_for_each_channel() -> None:
    model = parsed(ALONE)
    assert [s.reason for s in sites(model, FuseGroupNorm())] == [None]
    assert text(model) == expected("""
        y = InstanceNormalization(x, y.scale, y.bias)
        y.scale: [4]
        y.bias: [4]
    """)
    arrays = [model.graph.initializers[name].const_value for name in ("y.scale", "y.bias")]
    assert [a.numpy().tolist() for a in arrays if a is not None] == [[1, 4, 3, 8], [4, 3, 5, 5]]


def test_golden_without_parameters() -> None:
    model = parsed(NEUTRAL)
    assert [s.reason for s in sites(model, FuseGroupNorm())] == [None]
    assert op_types(model) == ["Reshape", "InstanceNormalization", "Reshape"]


@pytest.mark.parametrize(("form", "kinds"), [
    ("operator", ["Reshape", "InstanceNormalization", "Reshape", "BatchNormalization"]),
    ("operator, sizes unknown", ["Reshape", "InstanceNormalization", "Shape", "Reshape", "BatchNormalization"]),
    ("operator, a group a channel", ["InstanceNormalization"]),
])  # fmt: skip
def test_golden_operator(form: str, kinds: list[str]) -> None:
    model = parsed(*FORMS[form])
    assert [s.reason for s in sites(model, FuseGroupNorm())] == [None]
    assert op_types(model) == kinds


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(FORMS)), st.integers(1, 3), st.integers(0, 1 << 16))
def test_properties(form: str, batch: int, seed: int) -> None:
    model = parsed(*FORMS[form])
    shape = [batch, 4, 3, 5][: len(model.graph.inputs[0].shape or ())]
    feeds = {"x": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}
    before, interface = compute(model, feeds), Interface.of(model)
    assert pipeline.run(model, [FuseGroupNorm()])[0].modified
    assert Interface.of(model) == interface
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    # Up to 60 numbers are summed, for two statistics; with epsilon 0.5 nothing cancels. The operator's own body squares
    # before it subtracts, on numbers below 4: 16 / 0.5 of the error of the mean of squares. 8 operations follow.
    assert distance(compute(model, feeds), before)[0] <= 4 * (60 + 32 + 8) * EPS32
    assert not pipeline.run(model, [FuseGroupNorm()])[0].modified


@pytest.mark.parametrize("form", ["written", "neutral"])
def test_written_out_the_numbers_stay_exactly(form: str) -> None:
    """BatchNormalization computes one product and one sum, as Mul and Add do."""
    model = parsed(*FORMS[form])
    x = np.random.default_rng(0).standard_normal((3, 4, 3, 5)).astype(np.float32)
    x[0, 0, 0, 0], x[1, 2, 1, 1], x[2, 1, 1, 1] = np.inf, np.nan, 1e30
    before = compute(model, {"x": x})["y"]
    assert [s.reason for s in sites(model, FuseGroupNorm())] == [None]
    # A processor that multiplies and adds in one instruction rounds once where two nodes round twice.
    after = compute(model, {"x": x})["y"]
    assert np.array_equal(np.isnan(after), np.isnan(before))
    assert distance({"y": after}, {"y": before})[0] <= EPS32


def test_an_empty_batch_runs() -> None:
    model = parsed(*FORMS["operator, sizes known"])
    assert [s.reason for s in sites(model, FuseGroupNorm())] == [None]
    assert compute(model, {"x": np.zeros((0, 4, 3, 5), np.float32)})["y"].shape == (0, 4, 3, 5)


NOTHING = """g (float[n, 0, 3, 5] x) => (float[n, 0, 3, 5] y)
    <int64[3] split = {0, 0, 15}, int64[4] merge = {0, 0, 3, 5}, float[0] none = {}> {
    s = Reshape(x, split)
    i = InstanceNormalization(s, none, none)
    y = Reshape(i, merge)
}"""
RESHAPES = "the reshapes do not split and merge the groups"
READER = "a value in between has another reader or is a graph output"
FOLLOW = "no scale and shift per channel follow"
OUTPUTS = "float[n, 4, 3, 5] y)"
CONSTANT = "a parameter is not constant"
GUARDS = [
    (RESHAPES, NORM.replace("m = Reshape(i, merge)", "r = Relu(i)\n m = Reshape(r, merge)")),
    (RESHAPES, NORM.replace("{0, 4, 3, 5}", "{0, 4, 5, 3}").replace("(float[n, 4, 3, 5] y)", "(float[n, 4, 5, 3] y)")),
    (RESHAPES, NORM.replace("split = {0, 2, -1}", "split = {-1, 2, 15}")),
    (RESHAPES, ALONE.replace("split = {0, 4, -1}", "split = {-1, 4, 5}").replace("{0, 4, 3, 5}", "{-1, 4, 3, 5}")),
    (RESHAPES, NORM.replace("int64[3] split = {0, 2, -1}", "int64[4] split = {0, 2, 3, -1}")),
    (RESHAPES, NORM.replace("[n, 4, 3, 5]", "[n, c, 3, 5]").replace("{0, 4, 3, 5}", "{0, -1, 3, 5}")
     .replace("=> (float[n, c, 3, 5] y)", "=> (float[n, 4, 3, 5] y)")),
    (RESHAPES, NOTHING),
    (FOLLOW, NORM.replace("y = Add(beta, g)", "y = Relu(g)").replace(", float[1, 4, 1, 1] beta = {4, 3, 2, 1}", "")),
    (FOLLOW, NORM.replace(OUTPUTS, f"{OUTPUTS[:-1]}, float[n, 4, 3, 5] m)")),
    (FOLLOW, NORM.replace("float[4, 1, 1] gamma = {1, 2, 3, 4}", "float[3, 1] gamma = {1, 2, 3}")),
    (READER, NORM.replace(OUTPUTS, f"{OUTPUTS[:-1]}, float[n, 2, 30] i)")),
    (READER, NORM.replace(OUTPUTS, f"{OUTPUTS[:-1]}, float[n, 2, 30] s)")),
    (CONSTANT, NORM.replace("5] x)", "5] x, float[2] one)").replace("float[2] one = {1, 1}, ", "")),
    ("a parameter leaves the range of FLOAT", NORM.replace("{1, 2, 3, 4}", "{1e-40, 1e-40, 1e-40, 1e-40}")),
    ("dtype is DOUBLE, not FLOAT", NORM.replace("float", "double")),
]  # fmt: skip
CHANNELS = "the number of channels is dynamic, or no multiple of the groups"
OPERATORS = [
    (CONSTANT, OPERATOR.replace("5] x)", "5] x, float[4] gamma)").replace("float[4] gamma = {1, 2, 3, 4}, ", "")),
    ("dtype is DOUBLE, not FLOAT", OPERATOR.replace("float", "double")),
    ("there are no axes behind the channels, or no elements", OPERATOR.replace("[n, 4, h, 5]", "[n, 4]")),
    ("there are no axes behind the channels, or no elements", OPERATOR.replace("[n, 4, h, 5]", "[n, 4, h, 0]")),
    (CHANNELS, OPERATOR.replace("[n, 4, h, 5]", "[n, c, h, 5]")),
    (CHANNELS, OPERATOR.replace("num_groups = 2", "num_groups = 3")),
    (CHANNELS, OPERATOR.replace("num_groups = 2", "num_groups = 0")),
]


@pytest.mark.parametrize(
    ("reason", "body", "header"), [*((*g, OLD) for g in GUARDS), *((*g, NEW) for g in OPERATORS)],
    ids=[f"{i}: {g[0][:40]}" for i, g in enumerate([*GUARDS, *OPERATORS])],
)  # fmt: skip
def test_guard(reason: str, body: str, header: str) -> None:
    model = parsed(body, header)
    before = serialized(model)
    (record,) = pipeline.run(model, [FuseGroupNorm()])
    assert [s.reason for s in record.sites] == [reason]
    assert not record.modified
    assert serialized(model) == before


def test_the_form_that_onnx_withdrew_is_a_guard() -> None:
    model = parsed(OPERATOR, NEW)
    model.opset_imports[""] = 20
    reason = "before opset 21 it has a scale and a bias for each group: a form that onnx withdrew"
    assert [s.reason for s in sites(model, FuseGroupNorm())] == [reason]


@pytest.mark.parametrize("body", [NORM, OPERATOR])
def test_unknown_rank_is_a_guard(body: str) -> None:
    model = parsed(body, NEW)
    model.graph.inputs[0].shape = None
    assert [s.reason for s in FuseGroupNorm()(model).sites] == ["the rank is unknown"]  # type: ignore[attr-defined]


class Written(torch.nn.Module):
    """Statistics of the groups by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma, self.beta = torch.nn.Parameter(torch.rand(8, 1, 1)), torch.nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        groups = x.view(n, 4, c * h * w // 4)
        d = groups - groups.mean(-1, keepdim=True)
        normal = d / (groups.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        return normal.view(n, c, h, w) * self.gamma + self.beta


MODULES = {
    "four groups": (torch.nn.GroupNorm(4, 8), 4), "one group": (torch.nn.GroupNorm(1, 8), 4),
    "a group a channel": (torch.nn.GroupNorm(8, 8), 1), "written": (Written(), 4),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # torch compares the number of elements
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", MODULES)
def test_real_module(name: str, exporter: str) -> None:
    torch.manual_seed(0)
    module, length = MODULES[name]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(0.5, 1.5)
    example = torch.randn(2, 8, 5, 5)
    model = EXPORTERS[exporter](module.eval(), example)
    x = {"x": example.numpy()}
    before = compute(model, x)
    assert [s.applied for s in sites(model, FuseInstanceNorm())] == [name == "written"]
    assert [s.reason for s in sites(model, FuseGroupNorm())] == [None]
    assert len(model.graph) == length
    # Sums of up to 200 numbers, for two statistics, in any order; 8 operations follow.
    assert distance(compute(model, x), before)[0] <= 4 * (200 + 8) * EPS32


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # torch compares the number of elements
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_module_without_parameters(exporter: str) -> None:
    """The dynamo exporter multiplies with ones and adds zeros all the same."""
    example = torch.randn(2, 8, 5, 5)
    model = EXPORTERS[exporter](torch.nn.GroupNorm(4, 8, affine=False).eval(), example)
    x = {"x": example.numpy()}
    before = compute(model, x)
    sites(model, FuseGroupNorm())
    assert op_types(model) == ["Reshape", "InstanceNormalization", "Reshape"]
    assert distance(compute(model, x), before)[0] == 0.0
