from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.interface import Interface
from dlc.passes.fuse_hard_swish import FuseHardSwish
from dlc.tolerance import EPS32, distance
from tests.passes.exported import EXPORTERS
from tests.passes.texts import compute, expected, graph, serialized, sites, text

HEAD = """g (float[n, 4] x) => (float[n, 4] y) <float three = {3}, float zero = {0}, float six = {6}> {
    a = Add(x, three)
    c = Clip(a, zero, six)
    """
SIXTH = HEAD.replace("<float", "<float sixth = {0.16666667}, float")
SWISH = HEAD + "m = Mul(x, c)\n y = Div(m, six) }"
SWISHES = {
    "product, then division": SWISH,
    "three first": SWISH.replace("(x, three)", "(three, x)"),
    "clipped first": SWISH.replace("(x, c)", "(c, x)"),
    "times a sixth": SIXTH + "m = Mul(x, c)\n y = Mul(sixth, m) }",
    "division, then product": HEAD + "m = Div(c, six)\n y = Mul(x, m) }",
    "a sixth, then product": SIXTH + "m = Mul(c, sixth)\n y = Mul(m, x) }",
    "x is divided": HEAD + "m = Div(x, six)\n y = Mul(m, c) }",
    "of HardSigmoid": "g (float[n, 4] x) => (float[n, 4] y) { h = HardSigmoid<alpha = 0.16666667>(x)\n y = Mul(x, h) }",
    "of HardSigmoid, which is first":
        "g (float[n, 4] x) => (float[n, 4] y) { h = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x)\n y = Mul(h, x) }",
}  # fmt: skip
SIGMOIDS = {
    "divided": HEAD + "y = Div(c, six) }",
    "times a sixth": SIXTH + "y = Mul(c, sixth) }",
    "times another value": HEAD.replace("4] x)", "4] x, float[n, 4] z)") + "h = Div(c, six)\n y = Mul(h, z) }",
}


@pytest.mark.parametrize("form", SWISHES)
def test_golden_swish(form: str) -> None:
    model = graph(SWISHES[form])
    assert [s.reason for s in sites(model, FuseHardSwish())] == [None]
    assert text(model) == expected("y = HardSwish(x)")


@pytest.mark.parametrize("form", SIGMOIDS)
def test_golden_sigmoid(form: str) -> None:
    model = graph(SIGMOIDS[form])
    assert [s.reason for s in sites(model, FuseHardSwish())] == [None]
    first = "h" if "another" in form else "y"
    assert text(model).startswith(f"{first} = HardSigmoid(x)")
    assert "Clip" not in text(model)
    attributes = model.graph.node(0).attributes
    assert (attributes.get_float("alpha"), attributes.get_float("beta")) == (float(np.float32(1 / 6)), 0.5)


GUARDS = [
    ("already fused", "g (float[n] x) => (float[n] y) { y = HardSwish(x) }"),
    ("not the HardSigmoid of HardSwish: alpha = 1/6, beta = 1/2",
     SWISHES["of HardSigmoid"].replace("<alpha = 0.16666667>", "")),
    ("not the HardSigmoid of HardSwish: alpha = 1/6, beta = 1/2",
     SWISHES["of HardSigmoid"].replace("0.16666667", "0.16666667, beta = 0.4")),
    ("it is not multiplied with x, or has another reader", SWISHES["of HardSigmoid"].replace("Mul(x, h)", "Neg(h)")),
    ("it is not multiplied with x, or has another reader",
     SWISHES["of HardSigmoid"].replace("4] y)", "4] y, float[n, 4] h)")),
    ("adds 2, not 3", SWISH.replace("three = {3}", "three = {2}")),
    ("does not clip to 0 and 6", SWISH.replace("zero = {0}", "zero = {-1}")),
    ("does not clip to 0 and 6", SWISH.replace("(a, zero, six)", "(a, zero)")),
    ("does not clip to 0 and 6", SWISH.replace("(a, zero, six)", "(a, zero, three)")),
    ("it is not divided by 6, or has another reader before it is", SWISH.replace("Div(m, six)", "Div(m, three)")),
    ("it is not divided by 6, or has another reader before it is", SWISH.replace("Div(m, six)", "Div(six, m)")),
    ("it is not divided by 6, or has another reader before it is", SWISH.replace("Mul(x, c)", "Mul(a, c)")),
    ("it is not divided by 6, or has another reader before it is", SWISH.replace("4] y)", "4] y, float[n, 4] m)")),
    ("it is not divided by 6, or has another reader before it is", SWISH.replace("4] y)", "4] y, float[n, 4] c)")),
    ("dtype is DOUBLE, not FLOAT", SWISH.replace("float", "double")),
    ("a product has another shape than x", SWISH.replace("float[n, 4] x", "float x").replace(
        "float[n, 4] y", "float[1] y").replace("float six", "float[1] six").replace("zero, six", "zero, top").replace(
        "<float", "<float top = {6}, float")),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "body"), GUARDS)
def test_guard(reason: str, body: str) -> None:
    model = graph(body)
    before = serialized(model)
    assert [s.reason for s in sites(model, FuseHardSwish())] == [reason]
    assert serialized(model) == before


def test_opset_without_hard_swish_is_a_guard() -> None:
    model = graph(SWISH, '<ir_version: 8, opset_import: ["" : 13]>')
    assert [s.reason for s in sites(model, FuseHardSwish())] == ["opset 13 has no HardSwish; it came with 14"]


@pytest.mark.parametrize("body", [SWISH.replace("Add(x, three)", other) for other in ("Sub(x, three)", "Add(x, x)")])
def test_a_clip_of_no_sum_with_a_constant_is_no_site(body: str) -> None:
    assert sites(graph(body), FuseHardSwish()) == ()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.sampled_from([*SWISHES.values(), *list(SIGMOIDS.values())[:2]]), st.integers(0, 5), st.integers(0, 1 << 16))
def test_properties(body: str, rows: int, seed: int) -> None:
    model = graph(body)
    x = np.random.default_rng(seed).uniform(-8, 8, (rows, 4)).astype(np.float32)
    odd = np.array([[np.nan, np.inf, -np.inf, -0.0], [3, -3, 5e37, -5e37]], np.float32)
    feeds = {"x": np.concatenate([x, odd])}
    before, interface = compute(model, feeds)["y"], Interface.of(model)
    assert [s.reason for s in sites(model, FuseHardSwish())] == [None]
    assert Interface.of(model) == interface
    after = compute(model, feeds)["y"]
    # Below 6 x + 3 <= 9 and its quotient are each rounded once or twice, and so is x / 6 + 1 / 2: at most 4 roundings
    # of numbers that are at most 9 / 6 of the result's scale, which is 1, times |x| <= 8 for HardSwish.
    near = np.abs(feeds["x"]) <= 8
    assert np.abs(after[near] - before[near]).max(initial=0.0) <= 4 * 1.5 * 8 * EPS32
    assert np.allclose(after[~near], before[~near], rtol=4 * EPS32, atol=0, equal_nan=True)
    assert [s.reason for s in sites(model, FuseHardSwish())] in (
        ["already fused"], ["it is not multiplied with x, or has another reader"],
    )  # fmt: skip


def test_a_product_that_overflows_before_it_is_divided_gives_the_number() -> None:
    model = graph(SWISH)
    feeds = {"x": np.full((1, 4), 1e38, np.float32)}
    assert np.isinf(compute(model, feeds)["y"]).all()
    sites(model, FuseHardSwish())
    assert np.array_equal(compute(model, feeds)["y"], feeds["x"])


class Mobile(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.relu6 = torch.nn.Linear(8, 8), torch.nn.ReLU6()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.linear(x)
        h = h * self.relu6(h + 3) / 6
        h = h * torch.nn.functional.hardsigmoid(h) + self.relu6(h + 3) / 6
        return torch.nn.functional.hardswish(h)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_real_module(exporter: str) -> None:
    torch.manual_seed(0)
    example = torch.randn(2, 8)
    model = EXPORTERS[exporter](Mobile().eval(), example)
    before = compute(model, {"x": example.numpy()})
    assert [s.reason for s in sites(model, FuseHardSwish()) if s.op != "HardSwish"].count(None) >= 3
    ops = [n.op_type for n in model.graph]
    assert (ops.count("HardSwish"), ops.count("HardSigmoid"), ops.count("Clip")) == (3, 1, 0)
    # Each of four functions errs by at most 6 eps of x, as derived above, and has a slope of at most 3 / 2.
    assert distance(compute(model, {"x": example.numpy()}), before)[0] <= 6 * 1.5**4 * 4 * EPS32
