from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.interface import Interface
from dlc.passes.fuse_gemm import FuseGemm
from dlc.tolerance import EPS32, distance, reassociation
from tests.passes.exported import EXPORTERS
from tests.passes.texts import compute, expected, graph, serialized, sites, text
from tests.passes.weights import weighted

FLAT = """g (float[n, 2] x) => (float[n, 3] y) <float[2, 3] w = {1, 2, 3, 4, 5, 6}, float[3] b = {1, 2, 3}> {
    p = MatMul(x, w)
    y = Add(p, b)
}"""
DEEP = FLAT.replace("float[n, 2]", "float[n, 4, 2]").replace("float[n, 3]", "float[n, 4, 3]")
TWO = FLAT.replace("float[n, 2]", "float[n, m, 2]").replace("float[n, 3]", "float[n, m, 3]")
ACTIVE = DEEP.replace("y = Add(p, b)", "s = Add(b, p)\n y = LeakyRelu<alpha = 0.25>(s)")


def named(body: str, header: str | None = None) -> ir.Model:
    model = graph(body) if header is None else graph(body, header)
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    return model


@pytest.mark.parametrize("swapped", [False, True])
def test_golden(swapped: bool) -> None:
    model = named(FLAT.replace("(p, b)", "(b, p)") if swapped else FLAT)
    [site] = sites(model, FuseGemm())
    assert (site.reason, set(site.before), site.after) == (None, {"node_p", "node_y"}, ("node_y.gemm",))
    assert text(model) == expected("""
        y = Gemm(x, w, b)
        w: [2,3]
        b: [3]""")


def test_golden_of_computed_operands() -> None:
    model = named("""g (float[n, 2] x, float[2, 3] w, float[n, 3] r) => (float[n, 3] y) {
        p = MatMul(x, w)
        y = Add(r, p)
    }""")
    assert [s.reason for s in sites(model, FuseGemm())] == [None]
    assert text(model) == expected("y = Gemm(x, w, r)")


def test_golden_rows() -> None:
    model = named(DEEP)
    assert [s.reason for s in sites(model, FuseGemm())] == [None]
    assert text(model) == expected("""
        node_y.flat = Reshape(x, node_y.rows)
        node_y.gemm = Gemm(node_y.flat, w, node_y.bias)
        y = Reshape(node_y.gemm, node_y.shape)
        w: [2,3]
        node_y.rows: [2]
        node_y.bias: [3]
        node_y.shape: [3]""")
    assert numbers(model, "node_y.rows") == [-1, 2]
    assert numbers(model, "node_y.shape") == [-1, 4, 3]


def test_golden_rows_of_two_dynamic_sizes() -> None:
    model = named(TWO)
    assert [s.reason for s in sites(model, FuseGemm())] == [None]
    assert text(model).splitlines()[2:5] == [
        "node_y.lead = Shape(x)",
        "node_y.shape = Concat(node_y.lead, node_y.columns)",
        "y = Reshape(node_y.gemm, node_y.shape)",
    ]


def test_golden_activation_before_the_shape_is_restored() -> None:
    model = named(ACTIVE)
    assert [s.reason for s in sites(model, FuseGemm())] == [None]
    assert [n.op_type for n in model.graph] == ["Reshape", "Gemm", "LeakyRelu", "Reshape"]
    assert list(model.graph)[2].attributes.get_float("alpha") == 0.25


def numbers(model: ir.Model, name: str) -> list[int]:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return [int(v) for v in tensor.numpy()]


READER = "the product has another reader or is a graph output"
NOT_A_BIAS = "the bias does not broadcast to the product"
GUARDS = [
    (READER, FLAT.replace("3] y)", "3] y, float[n, 3] p)")),
    (READER, FLAT.replace("3] y)", "3] y, float[n, 3] z)").replace("y = Add", "z = Neg(p)\n y = Add")),
    ("a rank is unknown", FLAT.replace("p = MatMul(x, w)", "q = Reshape(x, s)\n p = MatMul(q, w)").replace(
        "float[n, 2] x", "float[n, 2] x, int64[r] s").replace("float[n, 3] y", "float[] y")),
    ("not a product with a matrix", FLAT.replace("float[n, 2] x", "float[2] x").replace("[n, 3]", "[3]")),
    ("not a product with a matrix", DEEP.replace("4, 2] x)", "4, 2] x, float[n, 2, 3] w)").replace(
        "float[2, 3] w = {1, 2, 3, 4, 5, 6}, ", "")),
    ("dtype is INT32", FLAT.replace("float", "int32")),
    (NOT_A_BIAS, FLAT.replace("float[n, 2] x", "float[1, 2] x").replace("[n, 3] y", "[2, 3] y").replace(
        "float[3] b = {1, 2, 3}", "float[2, 3] b = {1, 2, 3, 4, 5, 6}")),
    (NOT_A_BIAS, FLAT.replace("[n, 3] y", "[1, n, 3] y").replace(
        "float[3] b = {1, 2, 3}", "float[1, 1, 3] b = {1, 2, 3}")),
    (NOT_A_BIAS, FLAT.replace("2] x)", "2] x, float[m, 3] b)").replace(", float[3] b = {1, 2, 3}", "").replace(
        "float[n, 3] y", "float[o, 3] y")),
    ("the bias is not one constant a column", DEEP.replace(
        "float[3] b = {1, 2, 3}", "float[4, 1] b = {1, 2, 3, 4}")),
    ("the bias is not one constant a column", DEEP.replace("2] x)", "2] x, float[3] b)").replace(
        ", float[3] b = {1, 2, 3}", "")),
    ("a size is 0, or the depth is unknown", DEEP.replace("[n, 4, ", "[n, 0, ")),
    ("a size is 0, or the depth is unknown", DEEP.replace("4, 2] x)", "4, k] x, float[k, 3] w)").replace(
        "float[2, 3] w = {1, 2, 3, 4, 5, 6}, ", "")),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "body"), GUARDS)
def test_guard(reason: str, body: str) -> None:
    model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 20]>\n{body}')
    before = serialized(model)
    assert [s.reason for s in sites(model, FuseGemm())] == [reason]
    assert serialized(model) == before


def test_opset_whose_shape_takes_no_part_is_a_guard() -> None:
    old = '<ir_version: 8, opset_import: ["" : 14]>'
    assert [s.reason for s in sites(named(TWO, old), FuseGemm())] == [
        "opset 14 has no Shape of a part; it came with 15"
    ]
    assert [s.reason for s in sites(named(DEEP, old), FuseGemm())] == [None]


def test_a_product_of_an_outer_graph_is_no_site() -> None:
    body = FLAT.replace("2] x)", "2] x, bool c)").replace("y = Add(p, b)", """y = If (c) <
        then_branch = t1 () => (float[n, 3] a) { a = Add(p, b) },
        else_branch = e1 () => (float[n, 3] d) { d = Neg(p) }>""")  # fmt: skip
    assert sites(graph(body), FuseGemm()) == ()


ACTS = ["", "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Neg"]
SIZES = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    SIZES, st.tuples(st.integers(1, 9), st.integers(1, 9)), st.sampled_from(ACTS),
    st.sampled_from(["n", "1, n", "1", ""]), st.integers(0, 1 << 16),
)  # fmt: skip
def test_properties(lead: list[tuple[int, bool]], size: tuple[int, int], act: str, bias: str, seed: int) -> None:
    (depth, columns), rng = size, np.random.default_rng(seed)
    names = ", ".join(f"d{i}" if dynamic or d == 0 else str(d) for i, (d, dynamic) in enumerate(lead))
    kind = f"float[{bias.replace('n', str(columns))}]" if bias else "float"
    last = f"s = Add(p, b)\n y = {act}(s)" if act else "y = Add(p, b)"
    body = f"""g (float[{names}, {depth}] x, float[{depth}, {columns}] w, {kind} b) => (float[{names}, {columns}] y) {{
        p = MatMul(x, w)
        {last}
    }}"""
    shape = [columns if d == "n" else 1 for d in bias.split(", ") if d]
    weights = {"w": rng.uniform(-1, 1, (depth, columns)), "b": rng.uniform(-1, 1, shape)}
    model = weighted(body, {name: array.astype(np.float32) for name, array in weights.items()})
    feeds = {"x": rng.uniform(-1, 1, (*(d for d, _ in lead), depth)).astype(np.float32)}
    before, interface = compute(model, feeds)["y"], Interface.of(model)
    assert [s.reason for s in sites(model, FuseGemm())] == [None]
    assert Interface.of(model) == interface
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    after = compute(model, feeds)["y"]
    assert after.shape == before.shape
    # Two orders of one sum of depth + 1 terms of at most 1, and an activation of slope 1 at most, good to 2 eps.
    assert np.abs(after - before).max(initial=0.0) <= (2 * (depth + 1) ** 2 + 4) * EPS32
    assert sites(model, FuseGemm()) == ()


@pytest.mark.parametrize("body", [FLAT, DEEP, ACTIVE])
def test_nan_and_infinity(body: str) -> None:
    model = named(body)
    rows = np.array([[np.nan, 1], [np.inf, 1], [-np.inf, 1], [np.inf, -np.inf]], np.float32)
    feeds = {"x": rows if body == FLAT else rows[None]}
    before = compute(model, feeds)["y"]
    sites(model, FuseGemm())
    assert np.array_equal(compute(model, feeds)["y"], before, equal_nan=True)


class Perceptron(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(torch.tanh(self.first(x)))
        return out


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_real_module(exporter: str) -> None:
    torch.manual_seed(0)
    example = torch.randn(2, 5, 8)
    model = EXPORTERS[exporter](Perceptron().eval(), example)
    before = compute(model, {"x": example.numpy()})
    assert [s.reason for s in sites(model, FuseGemm())] == [None, None]
    ops = [n.op_type for n in model.graph]
    assert ops == ["Reshape", "Gemm", "Tanh", "Reshape", "Reshape", "Gemm", "Reshape"]
    assert distance(compute(model, {"x": example.numpy()}), before)[0] <= reassociation(model)
