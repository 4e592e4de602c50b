from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.passes.split_residual import SplitResidual
from tests.passes.texts import compute, expected, graph, serialized, sites, text

RESIDUAL = """g (float[n, 4] x, float[n, 4] r) => (float[n, 4] y) <float[4] gamma = {1, 2, 3, 4}> {
    t = Add(x, r)
    y = LayerNormalization(t, gamma)
}"""


def test_golden() -> None:
    model = graph(RESIDUAL)
    [site] = sites(model, SplitResidual())
    assert site.applied
    assert text(model) == expected("""
        t = Sum(x, r)
        y = LayerNormalization(t, gamma)
        gamma: [4]""")


def test_the_normalisation_is_timed_along() -> None:
    model = graph(RESIDUAL)
    for i, node in enumerate(model.graph):
        node.name = f"n{i}"
    [site] = sites(model, SplitResidual())
    assert set(site.before) == {"n0", "n1"}
    assert "n1" in site.after
    assert "n0" not in site.after


GUARDS = [
    ("an operand is constant: a bias, no residual", RESIDUAL.replace("float[n, 4] r) =>", "float[n, 4] unused) =>")
     .replace("<float[4] gamma", "<float[4] r = {1, 1, 1, 1}, float[4] gamma")),
    ("dtype is DOUBLE, not FLOAT", RESIDUAL.replace("float", "double")),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "body"), GUARDS)
def test_guard(reason: str, body: str) -> None:
    model = graph(body)
    before = serialized(model)
    assert [s.reason for s in sites(model, SplitResidual())] == [reason]
    assert serialized(model) == before


@pytest.mark.parametrize("body", [RESIDUAL.replace("(t, gamma)", "(x, t)").replace("float[n, 4]", "float[4]")])
def test_a_sum_that_is_not_what_is_normalised_is_no_site(body: str) -> None:
    assert sites(graph(body), SplitResidual()) == ()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(shape=st.lists(st.integers(0, 5), min_size=1, max_size=3), seed=st.integers(0, 2**16))
def test_the_numbers_stay_exactly(shape: list[int], seed: int) -> None:
    names = ", ".join("abc"[: len(shape)])
    body = RESIDUAL.replace("float[n, 4]", f"float[{names}, 4]")
    model, rng = graph(body), np.random.default_rng(seed)
    feeds = {name: rng.standard_normal((*shape, 4)).astype(np.float32) for name in "xr"}
    before = compute(model, feeds)["y"]
    assert [s.reason for s in sites(model, SplitResidual())] == [None]
    assert np.array_equal(compute(model, feeds)["y"], before)
    assert sites(model, SplitResidual()) == ()


def test_subgraphs_are_visited() -> None:
    body = RESIDUAL.replace("{\n", "{\n", 1)
    inner = body.split("{", 2)[2].rsplit("}", 1)[0]
    model = graph(
        "g (bool c, float[n, 4] x, float[n, 4] r) => (float[n, 4] z) <float[4] gamma = {1, 2, 3, 4}> { z = If (c) <"
        f"then_branch = t1 () => (float[n, 4] y) {{ {inner} }}, "
        "else_branch = e1 () => (float[n, 4] q) { q = Neg(x) }> }"
    )
    assert [s.applied for s in sites(model, SplitResidual())] == [True]
    assert {n.op_type for n in ir.traversal.RecursiveGraphIterator(model.graph)} >= {"Sum", "If"}
