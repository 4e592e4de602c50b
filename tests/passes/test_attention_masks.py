"""Masks of attention: choices, triangles, rows that are broadcast, and rows without a visible key."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from dlc.passes.fuse_attention import FuseAttention
from dlc.tolerance import EPS32, distance, reassociation
from dlc.types import Array
from tests.passes.attention_graphs import (
    BOUND,
    CHOSEN,
    GUARDED,
    ONE_ROW,
    UNMASKED,
    WAYS,
    attention,
    feeds,
)
from tests.passes.texts import compute, expected, graph, serialized, sites, text
from tests.passes.weights import weighted


def test_a_choice_between_scores_and_a_lowest_number_is_a_mask() -> None:
    model = attention(CHOSEN)
    assert [s.reason for s in sites(model, FuseAttention())] == [None]
    assert text(model) == expected("""
        seen.mask = Where(seen, mask.zero, mask.lowest)
        y = Attention(q, k, v, seen.mask)
        zero: []
        mask.lowest: []
        mask.zero: []
    """)


@pytest.mark.parametrize("lowest", ["-10000", "-1e30", "0", "inf"])
def test_a_number_that_a_score_could_reach_is_no_mask(lowest: str) -> None:
    model = attention(CHOSEN.replace("-3.4028234663852886e+38", lowest))
    reason = "the scores are no product of two matrices, plus a mask"
    for each in (FuseAttention(), FuseAttention(max_opset=22), FuseAttention(products=True)):
        assert [s.reason for s in sites(model, each)] == [reason]


TRIANGLE = np.where(np.tri(4, dtype=bool), 0, -np.inf).astype(np.float32)


@pytest.mark.parametrize(
    ("mask", "is_causal"),
    [
        (TRIANGLE, True),
        (TRIANGLE[None, None], True),
        (np.maximum(TRIANGLE, np.finfo(np.float32).min), True),
        (TRIANGLE.T, False),
        (np.maximum(TRIANGLE, -1e4).astype(np.float32), False),  # a score could reach it
        (TRIANGLE + np.eye(4, dtype=np.float32), False),
    ],
)
def test_causal_where_the_mask_is_a_constant_triangle(mask: Array, is_causal: bool) -> None:
    shape = ", ".join(map(str, mask.shape))
    body = UNMASKED.replace("mask = Where(seen, zero, low)", "").replace(
        ", bool[b, 1, s, s] seen", f", float[{shape}] triangle"
    )
    body = body.replace(
        "scaled = Mul(product, scale)", "scaled = Mul(product, scale)\n    scores = Add(scaled, triangle)"
    )
    body = body.replace("Softmax(scaled)", "Softmax(scores)").replace("b, s,", "b, 4,")
    for native in (True, False):
        weights = weighted(body, {"triangle": mask})
        model = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(weights), data_prop=True))
        given_feeds = feeds(model, np.random.default_rng(0))
        before = compute(model, given_feeds)
        assert [s.reason for s in sites(model, FuseAttention(max_opset=23 if native else 22))] == [None]
        [fused] = [n for n in model.graph if "Attention" in n.op_type]
        assert fused.attributes.get_int("is_causal" if native else "unidirectional", 0) == is_causal
        assert distance(compute(model, given_feeds), before)[0] <= BOUND


def test_a_mask_of_one_row_gets_a_row_for_each_query() -> None:
    model = attention(ONE_ROW)
    assert [s.reason for s in sites(model, FuseAttention())] == [None]
    assert [n.op_type for n in model.graph] == ["Where", "Shape", "Concat", "Expand", "Attention"]


def test_a_row_for_each_query_below_opset_15() -> None:
    model = ir.from_proto(onnx.shape_inference.infer_shapes(
        ir.to_proto(graph(ONE_ROW, '<ir_version: 8, opset_import: ["" : 13]>')), data_prop=True
    ))  # fmt: skip
    values = feeds(model, np.random.default_rng(0))
    values = {**values, "seen": values["seen"] | True}
    before, bound = compute(model, values), reassociation(model)
    assert [s.reason for s in sites(model, FuseAttention(max_opset=22))] == [None]
    assert [n.op_type for n in model.graph] == ["Where", "Shape", "Slice", "Concat", "Expand", "MultiHeadAttention"]
    assert distance(compute(model, values), before)[0] <= bound


INFINITE = [
    GUARDED.replace("{-10000}", "{-inf}"),
    GUARDED.replace("bool[b, 1, s, s] seen", "float[b, 1, s, s] mask").replace("mask = Where(seen, zero, low)", ""),
]


@pytest.mark.parametrize("body", INFINITE)
def test_only_attention_replaces_a_guard_that_acts(body: str) -> None:
    model = attention(body)
    before = serialized(model)
    reason = "the mask may be infinite: rows without a visible key are guarded, and MultiHeadAttention gives NaN"
    assert [s.reason for s in sites(model, FuseAttention(max_opset=22))] == [reason]
    assert serialized(model) == before
    assert [s.reason for s in sites(model, FuseAttention())] == [None]


def test_a_stated_invariant_replaces_a_guard() -> None:
    model = attention(INFINITE[0])
    each = FuseAttention(max_opset=22, invariants=("some-key-visible",))
    assert [s.reason for s in sites(model, each)] == [None]
    assert [n.op_type for n in model.graph] == ["Where", "MultiHeadAttention"]
    assert each.options["invariants"] == ("some-key-visible",)


def test_a_guard_that_acts_leaves_zeros() -> None:
    model = attention(INFINITE[0])
    given_feeds = dict(feeds(model, np.random.default_rng(0)))
    given_feeds["seen"] = np.ones((2, 1, 5, 5), bool)
    given_feeds["seen"][1] = given_feeds["seen"][0, 0, 2] = False
    before = compute(model, given_feeds)
    assert not before["y"][1].any()
    assert sites(model, FuseAttention())[0].applied
    after = compute(model, given_feeds)
    assert not after["y"][1].any()
    assert distance(after, before)[0] <= BOUND


def test_a_guard_that_acts_leaves_finite_rows_uniform() -> None:
    model = attention(INFINITE[1])
    given_feeds = dict(feeds(model, np.random.default_rng(0)))
    given_feeds["mask"] = np.zeros((2, 1, 5, 5), np.float32)
    given_feeds["mask"][0] = np.finfo(np.float32).min
    given_feeds["mask"][1, 0, :2] = -np.inf
    before = compute(model, given_feeds)
    assert before["y"][0].all()
    assert not before["y"][1, :2].any()
    assert sites(model, FuseAttention())[0].applied
    assert distance(compute(model, given_feeds), before)[0] <= BOUND


@pytest.mark.parametrize("each", WAYS, ids=["attention", "multi-head attention", "products"])
def test_rows_without_a_visible_key(each: FuseAttention) -> None:
    """A finite mask far below all scores swallows them: such rows are uniform, as they were."""
    model = attention(GUARDED.replace("{-10000}", "{-3.4028234663852886e+38}"))
    given_feeds = dict(feeds(model, np.random.default_rng(0)))
    given_feeds["seen"] = np.zeros((2, 1, 5, 5), bool)
    before = compute(model, given_feeds)
    assert sites(model, each)[0].applied
    assert distance(compute(model, given_feeds), before)[0] <= 4 * 7 * EPS32
