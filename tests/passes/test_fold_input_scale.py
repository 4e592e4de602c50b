"""Constants before a weighted node, folded into what it multiplies them by."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.interface import Interface
from dlc.passes.base import constant
from dlc.passes.fold_input_scale import FoldInputScale
from dlc.tolerance import distance, reassociation
from dlc.types import Array
from tests.passes.exported import EXPORTERS
from tests.passes.texts import annotated, compute, expected, serialized, sites, text
from tests.passes.weights import normal, weighted

CONV = """g (float[n, 2, 3, 3] x) => (float[n, 2, 3, 3] y)
    <float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] b = {1, 2}, float[2, 1, 1] c = {2, 4}, float zero = {0}> {
    s = Mul(x, c)
    y = Conv(s, w, b)
}"""
PADDED = CONV.replace("2, 1, 1] w = {1, 2, 3, 4}", "2, 3, 3] w = {" + ", ".join(map(str, range(36))) + "}", 1)
GEMM = """g (float[2, 2] x) => (float[2, 2] y)
    <float[2, 2] w = {1, 2, 3, 4}, float[2] b = {1, 2}, float[2] c = {2, 4}, float[2, 2] wide = {1, 2, 3, 4}> {
    s = Mul(x, c)
    y = Gemm(s, w, b)
}"""


def named(body: str) -> ir.Model:
    model = annotated(body)
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    return model


def fold(body: str) -> tuple[str, list[float], list[float]]:
    """Fold the one place; return the nodes, the weight and the bias."""
    model = named(body)
    assert [(s.node, s.reason) for s in sites(model, FoldInputScale())] == [("node_s", None)]
    (node,) = model.graph
    weight, bias = ([] if (a := constant(v)) is None else a.reshape(-1).tolist() for v in (*node.inputs[1:], None)[:2])
    return text(model), weight, bias


def test_golden_scale() -> None:
    nodes, weight, bias = fold(CONV)
    assert nodes == expected("""
        y = Conv(x, node_y.weight, node_y.bias)
        zero: []
        node_y.weight: [2,2,1,1]
        node_y.bias: [2]
    """)
    assert (weight, bias) == ([1 * 2, 2 * 4, 3 * 2, 4 * 4], [1, 2])


@pytest.mark.parametrize(
    ("operation", "weight", "bias"),
    [
        ("Div(x, c)", [1 / 2, 2 / 4, 3 / 2, 4 / 4], [1, 2]),
        ("Add(c, x)", [1, 2, 3, 4], [1 + (1 * 2 + 2 * 4), 2 + (3 * 2 + 4 * 4)]),
        ("Sub(x, c)", [1, 2, 3, 4], [1 - (1 * 2 + 2 * 4), 2 - (3 * 2 + 4 * 4)]),
        ("Sub(c, x)", [-1, -2, -3, -4], [1 + (1 * 2 + 2 * 4), 2 + (3 * 2 + 4 * 4)]),
    ],
)
def test_golden_operations(operation: str, weight: list[float], bias: list[float]) -> None:
    assert fold(CONV.replace("Mul(x, c)", operation))[1:] == (weight, bias)


def test_golden_gemm() -> None:
    assert fold(GEMM)[1:] == ([1 * 2, 2 * 2, 3 * 4, 4 * 4], [1, 2])
    assert fold(GEMM.replace("Gemm(", "Gemm<transB = 1>("))[1] == [1 * 2, 2 * 4, 3 * 2, 4 * 4]
    shifted = GEMM.replace("Mul(", "Add(").replace("Gemm(", "Gemm<alpha = 0.5, beta = 2.0>(")
    assert fold(shifted)[1:] == ([1, 2, 3, 4], [2 * 1 + 0.5 * (1 * 2 + 3 * 4), 2 * 2 + 0.5 * (2 * 2 + 4 * 4)])


READER = "the result has another reader or is a graph output"
PADDING = "a shift before padding: the padding would be shifted too"
GUARDS = [
    (READER, CONV.replace("3] y)", "3] y, float[n, 2, 3, 3] s)")),
    (READER, CONV.replace("3] y)", "3] y, float[n, 2, 3, 3] z)").replace("y = Conv", "z = Relu(s)\n y = Conv")),
    ("the weight of Conv is not constant",
     CONV.replace("3, 3] x)", "3, 3] x, float[2, 2, 1, 1] w)").replace("float[2, 2, 1, 1] w = {1, 2, 3, 4}, ", "")),
    ("Gemm reads it transposed", GEMM.replace("Gemm(", "Gemm<transA = 1>(")),
    ("the constant is not one per channel", GEMM.replace("Mul(x, c)", "Mul(x, wide)")),
    ("the constant is not one per channel", CONV.replace("float[2, 1, 1] c", "float[1, 2, 1] c")
     .replace("[n, 2, 3, 3]", "[n, 2, 2, 3]")),
    ("the constant is not one per channel",
     CONV.replace("[n, 2, 3, 3] x", "[n, 1, 3, 3] x")),  # it makes two channels of one
    ("divides by the input, or by zero", CONV.replace("Mul(x, c)", "Div(c, x)")),
    ("divides by the input, or by zero", CONV.replace("Mul(x, c)", "Div(x, zero)")),
    ("a shift before MatMul is no bias", GEMM.replace("Mul(", "Add(").replace("Gemm(s, w, b)", "MatMul(s, w)")),
    ("a shift before ConvTranspose is no bias", CONV.replace("Mul(", "Add(").replace("Conv(", "ConvTranspose(")),
    (PADDING, PADDED.replace("Mul(", "Add(").replace("Conv(", "Conv<pads = [1, 1, 1, 1]>(")),
    (PADDING, PADDED.replace("Mul(", "Sub(").replace("Conv(", 'Conv<auto_pad = "SAME_UPPER">(')),
    ("the scaled weight leaves the range of float32", CONV.replace("c = {2, 4}", "c = {1e38, 3e38}")),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "body"), GUARDS)
def test_guard(reason: str, body: str) -> None:
    model = named(body)
    before = serialized(model)
    assert [s.reason for s in sites(model, FoldInputScale())] == [reason]
    assert serialized(model) == before


def test_a_scale_before_padding_folds() -> None:
    model = named(PADDED.replace("Conv(", "Conv<pads = [1, 1, 1, 1]>("))
    x = {"x": normal(2, 2, 3, 3)}
    before, bound = compute(model, x), reassociation(model)
    assert [s.reason for s in sites(model, FoldInputScale())] == [None]
    assert distance(compute(model, x), before)[0] <= bound


SHAPES = {"Conv": "[n, {c}, 4, 5]", "ConvTranspose": "[n, {c}, 4, 5]", "Gemm": "[n, {c}]", "MatMul": "[n, 3, {c}]"}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(SHAPES)), st.sampled_from(["Mul", "Div", "Add", "Sub"]), st.booleans(), st.booleans(),
    st.tuples(st.integers(1, 3), st.integers(1, 3)), st.integers(0, 1 << 16),
)  # fmt: skip
def test_properties(op: str, how: str, left: bool, one: bool, size: tuple[int, int], seed: int) -> None:
    rng, (channels, groups) = np.random.default_rng(seed), size
    groups = groups if "Conv" in op else 1
    width, shape = channels * groups, SHAPES[op].format(c=channels * groups)
    kernel = {"Conv": (2 * groups, channels, 2, 2), "ConvTranspose": (width, 2, 2, 2)}.get(op, (width, 4))
    per_channel = (1,) if one else (width, 1, 1) if "Conv" in op else (width,)
    weights: dict[str, Array] = {
        "w": rng.standard_normal(kernel).astype(np.float32),
        "c": (rng.uniform(0.5, 2, per_channel) * rng.choice([-1, 1], per_channel)).astype(np.float32),
    }
    stated = {name: ", ".join(map(str, array.shape)) for name, array in weights.items()}
    operands, rank = "c, x" if left else "x, c", shape.count(",") + 1
    group = f"<group = {groups}>" if "Conv" in op else ""
    model = weighted(
        f"""g (float{shape} x, float[{stated["w"]}] w, float[{stated["c"]}] c)
            => (float[{", ".join("abcd"[:rank])}] y) {{ s = {how}({operands}) y = {op}{group}(s, w) }}""",
        weights,
    )
    model = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))
    x = {"x": rng.standard_normal([d if isinstance(d, int) else 2 for d in model.graph.inputs[0].shape or ()])}
    x = {"x": x["x"].astype(np.float32)}
    before, interface, bound = compute(model, x), Interface.of(model), reassociation(model)
    [site] = sites(model, FoldInputScale())
    shift = how in ("Add", "Sub")
    assert site.applied == (not (shift and op in ("ConvTranspose", "MatMul")) and not (how == "Div" and left))
    assert [n.op_type for n in model.graph] == ([op] if site.applied else [how, op])
    assert Interface.of(model) == interface
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    # W (x + t) may cancel: each sum errs by eps of |W| |x| + |W| |t|, with at most 12 products of numbers below 5 and
    # outputs of some units in these draws less than 64 times the largest output.
    assert distance(compute(model, x), before)[0] <= 64 * bound
    assert not any(s.applied for s in sites(model, FoldInputScale()))


class Normalised(torch.nn.Module):
    """Means and deviations of a data set, taken off images before the first convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.nn.Buffer(torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1))
        self.deviation = torch.nn.Buffer(torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1))
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.conv((x - self.mean) / self.deviation))


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_real_module(exporter: str) -> None:
    torch.manual_seed(0)
    example = torch.rand(2, 3, 8, 8)
    model = EXPORTERS[exporter](Normalised().eval(), example)
    x = {"x": example.numpy()}
    before, bound = compute(model, x), reassociation(model)
    assert [s.applied for s in sites(model, FoldInputScale())] == [True]  # the Div; then the Sub leads to the Conv
    assert [s.applied for s in sites(model, FoldInputScale())] == [True]
    assert [n.op_type for n in model.graph] == ["Conv"]
    # x - mean cancels: |W x / deviation| is less than 8 times the largest output
    assert distance(compute(model, x), before)[0] <= 8 * bound
