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
from dlc.passes.split_bias import SplitBias
from dlc.tolerance import EPS32, distance, reassociation
from tests.passes.exported import EXPORTERS
from tests.passes.texts import compute, expected, graph, serialized, sites, text
from tests.passes.weights import weighted

GEMM = """g (float[n, 2] x) => (float[n, 3] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}, float[3] b = {1, 2, 3}> {
    y = Gemm<transB = 1>(x, w, b)
}"""
VIEWS = """g (float[n, 4, 2] x) => (float[n, 4, 3] y)
    <float[2, 3] w = {1, 2, 3, 4, 5, 6}, float[3] b = {1, 2, 3}, int64[2] s = {-1, 2}, int64[3] t = {-1, 4, 3}> {
    f = Reshape(x, s)
    p = Gemm(f, w, b)
    y = Reshape(p, t)
}"""


def named(body: str) -> ir.Model:
    model = graph(body)
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    return model


def test_golden() -> None:
    model = named(GEMM)
    [site] = sites(model, SplitBias())
    assert (site.reason, site.before, len(site.after)) == (None, ("node_y",), 2)
    assert text(model) == expected("""
        node_y.product = MatMul(x, node_y.weight)
        y = Sum(node_y.product, node_y.bias)
        node_y.weight: [2,3]
        node_y.bias: [3]""")


def test_golden_without_bias() -> None:
    model = named(GEMM.replace("(x, w, b)", "(x, w)").replace(", float[3] b = {1, 2, 3}", ""))
    assert [s.reason for s in sites(model, SplitBias())] == [None]
    assert text(model) == expected("""
        y = MatMul(x, node_y.weight)
        node_y.weight: [2,3]""")


def test_golden_views() -> None:
    model = named(VIEWS)
    [site] = sites(model, SplitBias())
    assert set(site.before) == {"node_f", "node_p", "node_y"}
    assert text(model) == expected("""
        node_p.product = MatMul(x, node_p.weight)
        y = Add(node_p.product, node_p.bias)
        node_p.weight: [2,3]
        node_p.bias: [3]""")


def test_golden_views_of_a_computed_shape() -> None:
    body = VIEWS.replace("[n, 4, ", "[n, m, ").replace("int64[3] t = {-1, 4, 3}", "int64[1] c = {3}").replace(
        "y = Reshape", "l = Shape<end = -1>(x)\n t = Concat<axis = 0>(l, c)\n y = Reshape"
    )  # fmt: skip
    model = named(body)
    assert [s.reason for s in sites(model, SplitBias())] == [None]
    assert [n.op_type for n in model.graph] == ["MatMul", "Add"]


OTHER_VIEWS = {
    "rows of half the length": VIEWS.replace("[n, 4, 2] x", "[n, 4, 4] x").replace("[n, 4, 3] y", "[m, 4, 3] y"),
    "another shape in the end": VIEWS.replace("{-1, 4, 3}", "{-1, 2, 3}").replace("[n, 4, 3] y", "[m, 2, 3] y"),
    "another rank in the end": VIEWS.replace("int64[3] t = {-1, 4, 3}", "int64[2] t = {-1, 12}").replace(
        "[n, 4, 3] y", "[n, 12] y"),
    "another reader of the rows": VIEWS.replace("3] y)", "3] y, float[m, 3] p)"),
    "no view before": VIEWS.replace("f = Reshape(x, s)", "f = Flatten<axis = 2>(x)"),
    "no view after": VIEWS.replace("y = Reshape(p, t)", "y = Neg(p)").replace("[n, 4, 3] y", "[m, 3] y"),
    "no more than two dimensions": VIEWS.replace("[n, 4, 2] x", "[n, 2] x").replace("[n, 4, 3] y", "[n, 3] y").replace(
        "int64[3] t = {-1, 4, 3}", "int64[2] t = {-1, 3}"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHER_VIEWS)
def test_other_views_stay(case: str) -> None:
    model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 20]>\n{OTHER_VIEWS[case]}')
    views = [n.op_type for n in model.graph if n.op_type != "Gemm"]
    assert [s.reason for s in sites(model, SplitBias())] == [None]
    assert [n.op_type for n in model.graph if n.op_type not in ("MatMul", "Sum")] == views


GUARDS = {
    "Gemm reads x transposed": GEMM.replace("transB", "transA = 1, transB").replace("[n, 2] x", "[2, n] x"),
    "the weight of Gemm is not constant": GEMM.replace("2] x)", "2] x, float[3, 2] w)").replace(
        "float[3, 2] w = {1, 2, 3, 4, 5, 6}, ", ""),
    "the weight of Gemm has another reader": GEMM.replace("3] y)", "3] y, float[3, 2] z)").replace(
        "y = Gemm", "z = Neg(w)\n y = Gemm"),
    "the bias of Gemm is not one constant per channel": GEMM.replace("2] x)", "2] x, float[3] b)").replace(
        ", float[3] b = {1, 2, 3}", ""),
    "the weight of Gemm is INT32": GEMM.replace("float", "int32"),
}  # fmt: skip


@pytest.mark.parametrize("reason", GUARDS)
def test_guard(reason: str) -> None:
    model = graph(GUARDS[reason])
    before = serialized(model)
    assert [s.reason for s in sites(model, SplitBias())] == [reason]
    assert serialized(model) == before


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9)), st.booleans(), st.booleans(), st.booleans(),
    st.integers(0, 1 << 16),
)  # fmt: skip
def test_properties(size: tuple[int, int, int], bias: bool, transposed: bool, views: bool, seed: int) -> None:
    (rows, depth, columns), rng = size, np.random.default_rng(seed)
    shape = (columns, depth) if transposed else (depth, columns)
    gemm = f"Gemm<alpha = 0.5, beta = 1.5, transB = {int(transposed)}>"
    read = "w, b" if bias else "w"
    lead, body = ("n, 3", f"f = Reshape(x, s)\n p = {gemm}(f, {read})\n y = Reshape(p, t)") if views else (
        "n", f"y = {gemm}(x, {read})")  # fmt: skip
    inputs = f"float[{shape[0]}, {shape[1]}] w" + (f", float[{columns}] b" if bias else "") + (
        ", int64[2] s, int64[3] t" if views else "")  # fmt: skip
    weights = {"w": rng.uniform(-1, 1, shape).astype(np.float32), "b": rng.uniform(-1, 1, columns).astype(np.float32),
               "s": np.array([-1, depth]), "t": np.array([-1, 3, columns])}  # fmt: skip
    model = weighted(f"g (float[{lead}, {depth}] x, {inputs}) => (float[{lead}, {columns}] y) {{ {body} }}", weights)
    feeds = {"x": rng.uniform(-1, 1, (rows, *([3] if views else []), depth)).astype(np.float32)}
    before, interface = compute(model, feeds)["y"], Interface.of(model)
    assert [s.reason for s in sites(model, SplitBias())] == [None]
    assert Interface.of(model) == interface
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    after = compute(model, feeds)["y"]
    assert after.shape == before.shape
    # Two orders of one sum of depth terms of at most 1/2 and one of at most 3/2; weight and bias are rounded once more.
    assert np.abs(after - before).max(initial=0.0) <= 2 * (depth + 3) ** 2 * EPS32
    assert sites(model, SplitBias()) == ()


def test_there_and_back_is_one_round() -> None:
    """Split, then fuse: a second round of both gives the same graph."""
    model = named(VIEWS)
    for _ in range(2):
        sites(model, SplitBias())
        sites(model, FuseGemm())
    ops = [n.op_type for n in model.graph]
    for each in (SplitBias(), FuseGemm()):
        sites(model, each)
    assert [n.op_type for n in model.graph] == ops == ["Reshape", "Gemm", "Reshape"]
    flat = named(GEMM)
    for each in (SplitBias(), FuseGemm(), SplitBias()):
        sites(flat, each)
    assert [n.op_type for n in flat.graph] == ["MatMul", "Sum"]


class Addmm(torch.nn.Module):
    """The linear layer of GPT-2: a product on a view."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = torch.nn.Parameter(torch.randn(8, 4)), torch.nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return torch.relu(out.view(x.size(0), x.size(1), 4))


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_real_module(exporter: str) -> None:
    torch.manual_seed(0)
    example = torch.randn(2, 5, 8)
    model = EXPORTERS[exporter](Addmm().eval(), example)
    before = compute(model, {"x": example.numpy()})
    assert [s.reason for s in sites(model, SplitBias())] == [None]
    assert [n.op_type for n in model.graph] == ["MatMul", "Add", "Relu"]
    assert distance(compute(model, {"x": example.numpy()}), before)[0] <= reassociation(model)
