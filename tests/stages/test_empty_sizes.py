"""No size may be declared below 1; what is empty inside a model all the same keeps working."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

import numpy as np
import onnx_ir as ir
import pytest

from dlc.costs import Costs
from dlc.errors import RecipeError
from dlc.passes.fuse_attention import FuseAttention
from dlc.passes.pool_mean import PoolMean
from dlc.passes.rewrite import Rewrite
from dlc.recipe import Dim
from dlc.runtimes.session import SessionConfig
from dlc.stages.rewriting import rewrite
from dlc.target import detect
from dlc.types import Feeds
from tests.passes.attention_graphs import UNMASKED, attention, feeds
from tests.passes.texts import compute, graph, sites

MEAN = """g (float[b, 2, n, 4] x) => (float[b, 2, 1, 1] y)
    <float[b, 2, s, 4] rest, int64[1] one = {1}, int64[1] end = {4096}, int64[1] axis = {2}, int64[2] axes = {2, 3}> {
    rest = Slice(x, one, end, axis)
    y = ReduceMean(rest, axes)
}"""
"""The mean of all rows but the first."""


@dataclass(frozen=True)
class Standard(FuseAttention):
    """The standard operator and no other form."""

    def alternatives(self) -> tuple[Self, ...]:
        return (self,)


def costs(typical: Feeds, *bounds: Feeds) -> Costs:
    return Costs(detect(), SessionConfig(), typical, bounds)


def rows(count: int) -> Feeds:
    return {"x": np.random.default_rng(count).standard_normal((1, 2, count, 4)).astype(np.float32)}


def sequences(length: int) -> Feeds:
    return feeds(attention(UNMASKED), np.random.default_rng(length), length=length)


CASES: dict[str, tuple[ir.Model, Rewrite, Feeds, Feeds]] = {
    "mean": (graph(MEAN), PoolMean(), rows(5), rows(1)),
    "attention": (attention(UNMASKED), Standard(), sequences(5), sequences(0)),
}
"""A model, a form whose kernel refuses what is empty, typical inputs, and some for which it would be."""


@pytest.mark.parametrize("case", CASES)
def test_a_form_that_refuses_what_is_empty_is_left_where_a_measured_size_is(case: str) -> None:
    model, form, typical, empty = CASES[case]
    assert any(reason is None for _, reason in form.survey(model))
    [site] = rewrite(ir.from_proto(ir.to_proto(model)), costs(typical, empty), [form]).records[-1].sites
    assert re.match("cannot be measured: .* failed while running: ", str(site.reason))


@pytest.mark.parametrize(("case", "form"), [("attention", FuseAttention()), ("mean", PoolMean())])
def test_what_is_chosen_instead_runs(case: str, form: Rewrite) -> None:
    model, _, *points = CASES[case]
    before = compute(model, points[1])
    done = rewrite(ir.from_proto(ir.to_proto(model)), costs(*points), [form])
    assert done.bugs == ()
    np.testing.assert_array_equal(compute(done.model, points[1])["y"], before["y"])  # of nothing: no sum is moved


def test_no_dimension_is_declared_empty() -> None:
    with pytest.raises(RecipeError, match="1 <= min <= max, not min=0"):
        Dim(min=0, max=8)


@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0)])
def test_attention_as_multi_head_attention_takes_what_is_empty(batch: int, length: int) -> None:
    model = attention(UNMASKED)
    fed = feeds(model, np.random.default_rng(0), batch, length)
    before = compute(model, fed)
    assert [s.reason for s in sites(model, FuseAttention(max_opset=22))] == [None]
    np.testing.assert_array_equal(compute(model, fed)["y"], before["y"])
