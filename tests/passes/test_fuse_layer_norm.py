from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.passes.fuse_layer_norm import FuseLayerNorm
from dlc.tolerance import EPS32, distance
from tests.passes.texts import compute, expected, graph, serialized, sites, text

CONSTANTS = "int64[1] last = {-1}, float two = {2}, float eps = {0.00001}"
PARAMETERS = "float[4] gamma = {1, 2, 3, 4}, float[4] beta = {4, 3, 2, 1}"
NORM = f"""g (float[n, 4] x) => (float[n, 4] y) <{CONSTANTS}, {PARAMETERS}> {{
    m = ReduceMean<keepdims = 1>(x, last)
    d = Sub(x, m)
    q = Pow(d, two)
    v = ReduceMean<keepdims = 1>(q, last)
    a = Add(v, eps)
    s = Sqrt(a)
    z = Div(d, s)
    g = Mul(z, gamma)
    y = Add(g, beta)
}}"""
FORMS = {
    "pow and div": NORM,
    "product with itself": NORM.replace("Pow(d, two)", "Mul(d, d)").replace("float two = {2}, ", ""),
    "reciprocal": NORM.replace("z = Div(d, s)", "r = Reciprocal(s)\n z = Mul(r, d)"),
    "swapped": NORM.replace("Add(v, eps)", "Add(eps, v)").replace("Mul(z, gamma)", "Mul(gamma, z)"),
    # What the dynamo exporter writes for x.mean() and x.var(): two means, two differences, a variance without its axis.
    "twice": NORM.replace("q = Pow(d, two)", "k = ReduceMean<keepdims = 1>(x, behind)\n e = Sub(x, k)\n q = Mul(e, e)")
    .replace("v = ReduceMean<keepdims = 1>(q, last)", "u = ReduceMean<keepdims = 0>(q, last)\n v = Reshape(u, kept)")
    .replace("float two = {2}", "int64[1] behind = {1}, int64[2] kept = {-1, 1}"),
    "power": NORM.replace("s = Sqrt(a)", "s = Pow(a, half)")
    .replace("Div(d, s)", "Mul(d, s)")
    .replace("float two", "float half = {-0.5}, float two"),
    "no beta": NORM.replace("y = Add(g, beta)", "y = Relu(g)").replace(", float[4] beta = {4, 3, 2, 1}", ""),
}


def test_golden() -> None:
    model = graph(NORM)
    assert [s.reason for s in sites(model, FuseLayerNorm())] == [None]
    assert text(model) == expected("""
        y = LayerNormalization(x, gamma, beta)
        gamma: [4]
        beta: [4]
    """)
    (node,) = model.graph
    assert node.attributes.get_float("epsilon", 0.0) == float(np.float32(1e-5))
    assert node.attributes.get_int("axis", 0) == -1


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(FORMS)), st.integers(1, 5), st.integers(0, 1 << 16))
def test_properties(form: str, rows: int, seed: int) -> None:
    model = graph(FORMS[form])
    feeds = {"x": np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32)}
    before = compute(model, feeds)
    assert pipeline.run(model, [FuseLayerNorm()])[0].modified
    assert "LayerNormalization" in [n.op_type for n in model.graph]
    assert len(model.graph) <= 2
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    # The kernel takes the variance as mean(x*x) - mean(x)^2, which cancels: eps * mean(x*x) / variance, below 64 for
    # four draws of these seeds; 8 operations follow, and gamma is 4 times the smallest output scale.
    assert distance(compute(model, feeds), before)[0] <= 64 * 8 * EPS32
    assert not pipeline.run(model, [FuseLayerNorm()])[0].modified


def test_two_axes() -> None:
    body = f"""g (float[n, 2, 2] x) => (float[n, 2, 2] y)
        <int64[2] last = {{1, 2}}, float two = {{2}}, float eps = {{0.5}}, float[2, 2] gamma = {{1, 2, 3, 4}},
         float[2, 2] beta = {{4, 3, 2, 1}}> {NORM[NORM.index("{", NORM.index("> {")) :]}"""
    model = graph(body)
    assert [s.reason for s in sites(model, FuseLayerNorm())] == [None]
    assert next(iter(model.graph)).attributes.get_int("axis", 0) == -2


AXES = "the means are not over the last axes, kept"
READER = "a value in between has another reader or is a graph output"
OUTPUTS = "float[n, 4] y)"
GAMMA = "no product with a constant gamma of the normalised shape follows"
GUARDS = [
    ("epsilon is not constant", NORM.replace("4] x)", "4] x, float eps)").replace(", float eps = {0.00001}", "")),
    ("what is averaged is not the square of x - mean(x)", NORM.replace("two = {2}", "two = {3}")),
    ("what is averaged is not the square of x - mean(x)", NORM.replace("Sub(x, m)", "Add(x, m)")),
    ("what is averaged is not the square of x - mean(x)", NORM.replace("Sub(x, m)", "Sub(m, x)")),
    ("dtype is DOUBLE, not FLOAT", NORM.replace("float", "double")),
    (AXES, NORM.replace("last = {-1}", "last = {0}")),
    (AXES, NORM.replace("[n, 4]", "[4, 4]").replace("v = ReduceMean<keepdims = 1>", "v = ReduceMean<keepdims = 0>")),
    ("the difference is not divided by the square root", NORM.replace("Div(d, s)", "Div(s, d)")),
    (AXES, FORMS["twice"].replace("[n, 4]", "[4, 4]").replace("kept = {-1, 1}", "kept = {1, 4}")),
    ("the difference is not divided by the square root",
     FORMS["twice"].replace("[n, 4]", "[4, 4]").replace("m = ReduceMean<keepdims = 1>(x, last)",
                                                        "m = ReduceMean<keepdims = 1>(x, first)")
     .replace("int64[1] behind", "int64[1] first = {0}, int64[1] behind")),
    (READER, FORMS["twice"].replace(OUTPUTS, f"{OUTPUTS[:-1]}, float[n, 4] e)")),
    (GAMMA, NORM.replace("4] x)", "4] x, float[4] gamma)").replace("float[4] gamma = {1, 2, 3, 4}, ", "")),
    (GAMMA, NORM.replace("float[4] gamma = {1, 2, 3, 4}", "float gamma = {2}")),
    *((READER, NORM.replace(OUTPUTS, f"{OUTPUTS[:-1]}, float[n, {width}] {value})"))
      for value, width in (("m", 1), ("d", 4), ("q", 4), ("v", 1), ("a", 1), ("s", 1))),
    (READER, NORM.replace(OUTPUTS, "float[n, 4] y, float[n, 4] o)").replace("y = Add", "o = Neg(d)\n y = Add")),
    (GAMMA, NORM.replace(OUTPUTS, "float[n, 4] y, float[n, 4] z)")),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "body"), GUARDS)
def test_guard(reason: str, body: str) -> None:
    model = graph(body)
    before = serialized(model)
    (record,) = pipeline.run(model, [FuseLayerNorm()])
    assert [s.reason for s in record.sites] == [reason]
    assert not record.modified
    assert serialized(model) == before


def test_opset_without_the_operator_is_a_guard() -> None:
    model = graph(NORM, '<ir_version: 8, opset_import: ["" : 18]>')
    model.opset_imports[""] = 16
    assert [s.reason for s in sites(model, FuseLayerNorm())] == [
        "opset 16 has no LayerNormalization; it came with 17"
    ]  # fmt: skip
