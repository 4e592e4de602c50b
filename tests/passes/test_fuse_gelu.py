from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.passes.fuse_gelu import FuseGelu
from dlc.tolerance import EPS32, distance
from tests.passes.texts import compute, expected, graph, serialized, sites, text

ROOT, INVERSE = "1.4142135381698608", "0.7071067690849304"
HALF = "float half = {0.5}, float one = {1}"
GELU = f"""g (float[n, 4] x) => (float[n, 4] y) <float root = {{{ROOT}}}, {HALF}> {{
    s = Div(x, root)
    e = Erf(s)
    p = Add(e, one)
    h = Mul(x, p)
    y = Mul(h, half)
}}"""


def test_golden() -> None:
    model = graph(GELU)
    assert sites(model, FuseGelu())[0].applied
    assert text(model) == expected("y = Gelu(x)")
    assert model.graph.node(0).attributes.get_string("approximate", "none") == "none"


ORDERS = {
    "half x first": "s = Mul(inverse, x)\n e = Erf(s)\n p = Add(one, e)\n h = Mul(half, x)\n y = Mul(h, p)",
    "half of the sum": "s = Mul(x, inverse)\n e = Erf(s)\n p = Add(e, one)\n h = Mul(p, half)\n y = Mul(x, h)",
    "divided by two": "s = Mul(x, inverse)\n e = Erf(s)\n p = Add(e, one)\n h = Mul(x, p)\n y = Div(h, two)",
}


@pytest.mark.parametrize("order", ORDERS)
def test_any_order(order: str) -> None:
    body = f"g (float[n, 4] x) => (float[n, 4] y) <float inverse = {{{INVERSE}}}, {HALF}, float two = {{2}}> "
    model = graph(body + "{" + ORDERS[order] + "}")
    before = text(model)
    assert [s.reason for s in sites(model, FuseGelu())] == [None], before
    assert [n.op_type for n in model.graph] == ["Gelu"]


def test_an_operator_that_is_there_is_kept() -> None:
    model = graph("g (float[n] x) => (float[n] y) { y = Gelu(x) }")
    before = serialized(model)
    assert [s.reason for s in sites(model, FuseGelu())] == ["already fused"]
    assert serialized(model) == before


NOT_A_PRODUCT = "1 + erf is not multiplied with x / 2"
READER = "another reader, or a graph output, before 0.5 * x * (1 + erf) is complete"
GUARDS = [
    ("the argument of erf is not x / sqrt(2)", GELU.replace(ROOT, "1.4142")),
    ("dtype is DOUBLE, not FLOAT or FLOAT16", GELU.replace("float", "double")),
    ("erf has another reader or is a graph output", GELU.replace("float[n, 4] y)", "float[n, 4] y, float[n, 4] e)")),
    ("1 is not added to erf", GELU.replace("one = {1}", "one = {2}")),
    ("1 is not added to erf", GELU.replace("Add(e, one)", "Sub(e, one)")),
    (READER, GELU.replace("half = {0.5}", "half = {0.25}")),
    (NOT_A_PRODUCT, GELU.replace("h = Mul(x, p)", "h = Div(x, p)")),
    (NOT_A_PRODUCT, GELU.replace("h = Mul(x, p)", "z = Neg(x)\n h = Mul(z, p)")),
    (READER, GELU.replace("float[n, 4] y)", "float[n, 4] y, float[n, 4] h)")),
    (
        READER,
        GELU.replace("float[n, 4] y)", "float[n, 4] y, float[n, 4] z)").replace("y = Mul", "z = Neg(p)\n y = Mul"),
    ),
]


@pytest.mark.parametrize(("reason", "body"), GUARDS)
def test_guard(reason: str, body: str) -> None:
    model = graph(body)
    before = serialized(model)
    (record,) = pipeline.run(model, [FuseGelu()])
    assert [s.reason for s in record.sites] == [reason]
    assert not record.modified
    assert serialized(model) == before


def test_opset_without_gelu_is_a_guard() -> None:
    model = graph(GELU, '<ir_version: 8, opset_import: ["" : 19]>')
    assert [s.reason for s in sites(model, FuseGelu())] == ["opset 19 has no Gelu; it came with 20"]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.sampled_from([GELU, *ORDERS]), st.integers(0, 1 << 16))
def test_properties(which: str, seed: int) -> None:
    body = GELU if which == GELU else (
        f"g (float[n, 4] x) => (float[n, 4] y) <float inverse = {{{INVERSE}}}, {HALF}, float two = {{2}}> "
        + "{" + ORDERS[which] + "}"
    )  # fmt: skip
    model = graph(body)
    feeds = {"x": np.random.default_rng(seed).uniform(-6, 6, (5, 4)).astype(np.float32)}
    before = compute(model, feeds)
    assert pipeline.run(model, [FuseGelu()])[0].modified
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    # Five rounded operations; erf is good to 2 eps, and so is the rounding of 1 / sqrt(2) before it (|x erf'(x)| < 1).
    # Each error is at most eps of |x| <= 6, the largest output is at least 1/6 of that in 20 draws.
    assert distance(compute(model, feeds), before)[0] <= 6 * 9 * EPS32
    assert not pipeline.run(model, [FuseGelu()])[0].modified


def test_value_at_one() -> None:
    model = graph(GELU)
    sites(model, FuseGelu())
    y = compute(model, {"x": np.ones((1, 4), np.float32)})["y"]
    assert abs(float(y[0, 0]) - 0.5 * (1 + math.erf(1 / math.sqrt(2)))) <= 4 * EPS32
