"""Constants that are added one after the other are added up before; what they would lose is left alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.interface import Interface
from dlc.passes.merge_terms import MergeTerms
from dlc.tolerance import EPS32
from tests.passes.texts import compute, expected, graph, serialized, sites, text

CUT = """g (float[b, s, 2] x) => (float[b, s, 2] y)
    <float[1, 4, 2] table = {1, 2, 3, 4, 5, 6, 7, 8}, float[2] row = {10, 20},
     int64[1] zero = {0}, int64[1] one = {1}> {
    z = Add(x, row)
    end = Shape<start = 1, end = 2>(x)
    rows = Slice(table, zero, end, one, one)
    y = Add(z, rows)
}"""
PLAIN = """g (float[n, 2] x) => (float[n, 2] y) <float[2] a = {1, 2}, float b = {3}> {
    z = Add(x, a)
    y = Add(z, b)
}"""


def test_golden() -> None:
    model = graph(CUT)
    model.graph.node(3).name = "sum"
    assert [s.reason for s in sites(model, MergeTerms())] == [None]
    assert text(model) == expected("""
        end = Shape(x)
        sum.part = Slice(table.merged, zero, end, one, one)
        y = Add(x, sum.part)
        zero: [1]
        one: [1]
        table.merged: [1,4,2]
    """)
    merged = model.graph.initializers["table.merged"].const_value
    assert merged is not None
    assert merged.numpy().tolist() == [[[11, 22], [13, 24], [15, 26], [17, 28]]]


@pytest.mark.parametrize("body", [PLAIN, PLAIN.replace("Add(x, a)", "Add(a, x)").replace("Add(z, b)", "Add(b, z)")])
def test_golden_plain(body: str) -> None:
    model = graph(body)
    assert [s.reason for s in sites(model, MergeTerms())] == [None]
    assert text(model) == expected("y = Add(x, b.merged)\nb.merged: [2]")


def test_the_inner_constant_may_be_the_one_that_is_cut() -> None:
    body = CUT.replace("    z = Add(x, row)\n", "").replace("y = Add(z, rows)", "z = Add(rows, x)\n y = Add(z, row)")
    model = graph(body)
    assert [s.reason for s in sites(model, MergeTerms())] == [None]
    assert [n.op_type for n in model.graph] == ["Shape", "Slice", "Add"]


GUARDS = {
    "dtype is INT64, not FLOAT": PLAIN.replace("float", "int64"),
    "the inner sum has another reader": PLAIN.replace("2] y)", "2] y, float[n, 2] w)").replace("a)", "a)  w = Neg(z)"),
    "both constants are cut": CUT.replace("z = Add(x, row)", "e = Shape<start = 1, end = 2>(x) "
                                          "p = Slice(table, zero, e, one, one) z = Add(x, p)"),
    "the sum of the constants is larger than either": PLAIN.replace("float b = {3}", "float[2, 1] b = {3, 4}"),
    "what is cut off the one differs in the other": CUT.replace(
        "float[2] row = {10, 20}", "float[4, 1] row = {1, 2, 3, 4}"),
    "the sum of the constants is not finite": PLAIN.replace("{1, 2}", "{3e38, 0}").replace("{3}", "{3e38}"),
    "the constants cancel": PLAIN.replace("{1, 2}", "{8388608, 8388608}").replace("{3}", "{-8388607}"),
}  # fmt: skip


@pytest.mark.parametrize("reason", GUARDS)
def test_guard(reason: str) -> None:
    model = graph(GUARDS[reason])
    before = serialized(model)
    assert [s.reason for s in sites(model, MergeTerms())] == [reason]
    assert serialized(model) == before


@pytest.mark.parametrize("body", [
    PLAIN.replace("Add(z, b)", "Mul(z, b)"), PLAIN.replace("Add(x, a)", "Add(x, x)"),
    PLAIN.replace("float[n, 2] x", "float[n, 2] x, float b").replace(", float b = {3}", ""),
    CUT.replace("Slice(table, zero, end, one, one)", "Slice(table, zero, end, fed, one)").replace(
        "[b, s, 2] x)", "[b, s, 2] x, int64[1] fed)"),
])  # fmt: skip
def test_no_site(body: str) -> None:
    assert sites(graph(body), MergeTerms()) == ()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.booleans(), st.integers(0, 3), st.integers(0, 4), st.integers(0, 1 << 16))
def test_properties(cut: bool, batch: int, length: int, seed: int) -> None:
    model = graph(CUT if cut else PLAIN)
    shape = (batch, length, 2) if cut else (batch, 2)
    x = {"x": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}
    before, interface = compute(model, x), Interface.of(model)
    assert [s.reason for s in sites(model, MergeTerms())] == [None]
    assert Interface.of(model) == interface
    # either way two roundings, each of a number below 32 and within half a unit in the last place of it
    assert np.abs(compute(model, x)["y"] - before["y"]).max(initial=0.0) <= 2 * 32 * EPS32
    assert sites(model, MergeTerms()) == ()
