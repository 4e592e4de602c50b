"""Constants behind a weighted node: a chain of them folds at one site."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.passes.fold_scale_bias import FoldScaleBias
from dlc.tolerance import distance, reassociation
from tests.passes.texts import annotated, compute, expected, sites, text

WEIGHTS = """float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] b = {1, 2},
    float[2, 1, 1] c = {2, 3}, float[2, 1, 1] d = {1, -1}, float[2, 2] wide = {1, 2, 3, 4}"""
CHAIN = f"""g (float[n, 2, 2, 2] x) => (float[n, 2, 2, 2] y) <{WEIGHTS}> {{
    h = Conv(x, w, b)
    scaled = Mul(h, c)
    shifted = Sub(scaled, d)
    y = Relu(shifted)
}}"""
FEEDS = {"x": np.random.default_rng(0).standard_normal((2, 2, 2, 2)).astype(np.float32)}


def folded(body: str, *skip: str) -> tuple[str, tuple[tuple[str, str | None], ...]]:
    """Fold; return the nodes that are left and the sites, once the numbers were compared."""
    model = annotated(body)
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    before, bound = compute(model, FEEDS), reassociation(model)
    found = sites(model, FoldScaleBias(skip=dict.fromkeys(skip, "slower")))
    assert distance(compute(model, FEEDS), before)[0] <= bound
    return text(model).split("\nwide")[0], tuple((s.node, s.reason) for s in found)


def test_a_chain_folds_in_one_run_at_its_first_node() -> None:
    nodes, found = folded(CHAIN)
    assert (
        nodes.splitlines()[:2]
        == expected("""
        shifted = Conv(x, node_h.weight_1, node_h.bias_1)
        y = Relu(shifted)
    """).splitlines()
    )
    assert found == (("node_scaled", None),)


STOPS = {
    "a constant that is not one per channel": ("Sub(scaled, wide)", ""),
    "another reader": ("Sub(scaled, d)", "z = Relu(scaled)"),
    "an operator that is none of the four": ("Max(scaled, d)", ""),
    "two values that are computed": ("Sub(scaled, x)", ""),
}


@pytest.mark.parametrize("why", STOPS)
def test_a_chain_folds_as_far_as_it_can(why: str) -> None:
    shifted, more = STOPS[why]
    body = CHAIN.replace("Sub(scaled, d)", f"{shifted}\n{more}")
    body = body.replace("2] y)", "2] y, float[n, 2, 2, 2] z)") if more else body
    nodes, found = folded(body)
    assert nodes.splitlines()[0] == "scaled = Conv(x, node_h.weight, node_h.bias)"
    assert f"shifted = {shifted}" in nodes
    assert found == (("node_scaled", None),)


def test_a_node_that_is_to_be_skipped_stays() -> None:
    nodes, found = folded(CHAIN, "node_shifted")
    assert "shifted = Sub(scaled, d)" in nodes
    assert found == (("node_scaled", None),)
