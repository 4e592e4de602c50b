from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.passes.canonicalize import Canonicalize
from tests.passes.texts import compute, graph, sites

SPLIT = """g (float[n, s, 6] x) => (float[n, s, 2, 3] y, float[n, s, 2, 3] z)
    <int64 i = {0}, int64 j = {1}, int64[1] zero = {0}, int64[1] two = {2}, int64[1] three = {3}> {
    a = Shape(x)
    b = Gather(a, i)
    c = Unsqueeze(b, zero)
    d = Gather(a, j)
    e = Unsqueeze(d, zero)
    t = Concat<axis = 0>(c, e, two, three)
    y = Reshape(x, t)
    r = Relu(x)
    f = Shape(r)
    g = Slice(f, zero, two)
    u = Concat<axis = 0>(g, two, three)
    z = Reshape(r, u)
}"""


def test_golden() -> None:
    model = graph(SPLIT)
    sites(model, Canonicalize())
    assert [n.op_type for n in model.graph] == ["Reshape", "Relu", "Reshape"]
    targets = [n.inputs[1] for n in model.graph if n.op_type == "Reshape"]
    assert {v.const_value.numpy().tolist() == [0, 0, 2, 3] for v in targets if v and v.const_value} == {True}


EXPANDED = """g (float[n, s] x, float[1, 1] m) => (float[n, t] y)
    <int64[1] minus = {-1}, int64[1] at = {0}, int64[1] end = {2}> {
    a = Shape(x)
    ones = ConstantOfShape<value = int64[1] {1}>(end)
    bad = Mul(ones, minus)
    b = Equal(a, bad)
    c = Where(b, ones, a)
    e = Expand(m, c)
    f = Expand(x, c)
    y = Concat<axis = 1>(e, f)
}"""


def test_a_choice_between_sizes_and_minus_one_is_the_sizes() -> None:
    model = graph(EXPANDED)
    sites(model, Canonicalize())
    assert [n.op_type for n in model.graph] == ["Shape", "Expand", "Concat"]


def test_outputs_and_products_of_names_stay() -> None:
    model = graph("""g (float[n, s] x) => (int64[2] y, float[p, q] z) <int64[1] i = {0}, int64[1] j = {1}> {
        y = Shape(x)
        a = Gather(y, i)
        b = Gather(y, j)
        p = Mul(a, b)
        t = Concat<axis = 0>(p, a)
        z = ConstantOfShape(t)
    }""")
    sites(model, Canonicalize())
    assert "Mul" in [n.op_type for n in model.graph]
    assert model.graph.outputs[0].name == "y"


@pytest.mark.parametrize("body", [SPLIT, EXPANDED])
@settings(max_examples=15, deadline=None)
@given(n=st.integers(0, 3), s=st.integers(0, 4))
def test_equal_at_every_size(body: str, n: int, s: int) -> None:
    model = graph(body)
    x = np.random.default_rng(0).standard_normal((n, s, 6) if body is SPLIT else (n, s)).astype(np.float32)
    feeds = {"x": x} if body is SPLIT else {"x": x, "m": np.ones((1, 1), np.float32)}
    before = compute(model, feeds)
    sites(model, Canonicalize())
    after = compute(model, feeds)
    assert all(np.array_equal(after[k], before[k]) for k in before)
