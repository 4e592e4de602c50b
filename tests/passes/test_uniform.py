"""Tensors of one number, and of one row, become constants where readers broadcast; numbers stay as they are."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.interface import Interface
from dlc.passes.canonicalize import Canonicalize
from tests.passes.texts import compute, expected, graph, sites, text

SEGMENTS = """g (int64[b, s] ids, float[b, s, 2] x) => (float[b, s, 2] y)
    <float[3, 2] table = {1, 2, 3, 4, 5, 6}, int64[1, 9] zeros = {0, 0, 0, 0, 0, 0, 0, 0, 0},
     int64[1, 9] positions = {0, 1, 2, 3, 4, 5, 6, 7, 8}, int64[1] zero = {0}, int64[1] one = {1}> {
    shape = Shape(ids)
    end = Shape<start = 1>(ids)
    at = Slice(positions, zero, end, one)
    first = GatherElements<axis = 1>(zeros, at)
    wide = Expand(first, shape)
    row = Gather(table, wide)
    y = Add(x, row)
}"""
VISIBLE = """g (int64[b, s] seen, float[b, 2, s, s] x) => (float[b, 2, s, s] y)
    <bool true = {1}, int64 zero = {0}, int64 one = {1}, int64[3] behind = {0, 1, 3}, int64[2] between = {1, 2},
     float none = {0}, float low = {-1e9}> {
    end = Shape<start = 1>(seen)
    length = Squeeze(end)
    range = Range(zero, length, one)
    queries = Unsqueeze(range, behind)
    counted = GreaterOrEqual(queries, zero)
    all = And(true, counted)
    keys = Cast<to = 9>(seen)
    wide = Unsqueeze(keys, between)
    both = And(all, wide)
    mask = Where(both, none, low)
    y = Add(x, mask)
}"""


def test_one_row_of_a_table() -> None:
    model = graph(SEGMENTS)
    sites(model, Canonicalize())
    assert text(model) == expected("y = Add(x, row.uniform)\nrow.uniform: [2]")


def test_a_mask_of_all_and_a_mask() -> None:
    model = graph(VISIBLE)
    sites(model, Canonicalize())
    assert text(model) == expected("""
        keys = Cast(seen)
        wide = Unsqueeze(keys, between)
        mask = Where(wide, none, low)
        y = Add(x, mask)
        between: [2]
        none: []
        low: []
    """)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.sampled_from([SEGMENTS, VISIBLE]), st.integers(0, 3), st.integers(0, 5), st.integers(0, 1 << 16))
def test_properties(body: str, batch: int, length: int, seed: int) -> None:
    model, rng = graph(body), np.random.default_rng(seed)
    sizes = {"b": batch, "s": length}
    feeds = {
        str(v.name): rng.integers(0, 2, shape) if v.dtype == ir.DataType.INT64 else rng.random(shape, np.float32)
        for v in model.graph.inputs
        if (shape := [d if isinstance(d, int) else sizes[str(d.value)] for d in v.shape or ()])
    }
    before, interface = compute(model, feeds), Interface.of(model)
    [record] = pipeline.run(model, [Canonicalize()])
    assert record.modified
    assert Interface.of(model) == interface
    assert np.array_equal(compute(model, feeds)["y"], before["y"])
    [again] = pipeline.run(model, [Canonicalize()])
    assert not again.modified


def operators(body: str) -> list[str]:
    model = graph(body)
    sites(model, Canonicalize())
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("of", "to", "left"),
    [
        ("zeros = {0, 0, 0, 0, 0, 0, 0, 0, 0}", "zeros = {0, 0, 0, 1, 0, 0, 0, 0, 0}", "GatherElements"),
        ("zeros = {0, 0, 0, 0, 0, 0, 0, 0, 0}", "zeros = {3, 3, 3, 3, 3, 3, 3, 3, 3}", "GatherElements"),  # no row
        ("y = Add(x, row)", "y = Concat<axis = 0>(row)", "GatherElements"),  # it has all rows itself
        ("y = Add(x, row)", "y = Mul(row, row)", "GatherElements"),  # nothing else has its width
        ("float[b, s, 2] x", "float[p, q, 2] x", "GatherElements"),  # or so the names say
    ],
)  # fmt: skip
def test_a_row_that_stays(of: str, to: str, left: str) -> None:
    assert left in operators(SEGMENTS.replace(of, to).replace("float[b, s, 2] y", "float[u, v, 2] y"))


@pytest.mark.parametrize(
    ("of", "to"),
    [
        ("GreaterOrEqual(", "Greater("),
        ("Range(zero, ", "Range(down, "),
        ("float[b, 2, s, s] x", "float[b, 2, 1, s] x"),  # then the rows come from the mask
    ],
)
def test_a_mask_that_stays(of: str, to: str) -> None:
    body = VISIBLE.replace("int64 one", "int64 down = {-1}, int64 one").replace("[b, 2, s, s] y", "[b, 2, t, s] y")
    assert "Range" in operators(body.replace(of, to))


def test_a_negative_index_counts_from_the_end() -> None:
    body = SEGMENTS.replace("zeros = {0, 0, 0, 0, 0, 0, 0, 0, 0}", "zeros = {-1, -1, -1, -1, -1, -1, -1, -1, -1}")
    model = graph(body)
    sites(model, Canonicalize())
    row = model.graph.initializers["row.uniform"].const_value
    assert row is not None
    assert row.numpy().tolist() == [5, 6]


def test_an_axis_of_the_table_that_is_not_the_first() -> None:
    model = graph("""g (float[2, b, 3] x) => (float[2, b, 3] y)
        <float[2, 4, 3] table = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24}> {
        end = Shape<start = 1, end = 2>(x)
        at = ConstantOfShape<value = int64[1] {2}>(end)
        row = Gather<axis = 1>(table, at)
        y = Mul(x, row)
    }""")
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    before = compute(model, {"x": x})
    sites(model, Canonicalize())
    assert text(model) == expected("y = Mul(x, row.uniform)\nrow.uniform: [2,1,3]")
    assert np.array_equal(compute(model, {"x": x})["y"], before["y"])


def test_a_number_that_gives_the_result_its_rank() -> None:
    model = graph("""g (float[s] x, float[n, s] z) => (float[m, s] y) {
        shape = Shape(z)
        one = ConstantOfShape<value = float[1] {2}>(shape)
        a = Div(x, one)
        y = Add(a, z)
    }""")
    sites(model, Canonicalize())
    assert text(model) == expected("a = Div(x, one.uniform)\ny = Add(a, z)\none.uniform: []")
