from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from dlc.passes.unroll_grid import UnrollGrid
from tests.passes.texts import compute, expected, graph, serialized, sites, text

GRID = """g (int64[b, s] x) => (int64[b, 1, 1, s] y)
    <int64 zero = {0}, int64 one = {1}, int64[1] last = {-1}, int64[3] rows = {1, 2, 3}, int64[3] columns = {0, 1, 2}> {
    size = Shape<start = 0, end = 1>(x)
    batch = Squeeze(size)
    length = Shape<start = 1, end = 2>(x)
    width = Squeeze(length)
    i = Range(zero, batch, one)
    j = Range(zero, width, one)
    i4 = Unsqueeze(i, rows)
    j4 = Unsqueeze(j, columns)
    both = Max(i4, j4)
    shape = Shape(both)
    ie = Expand(i4, shape)
    je = Expand(j4, shape)
    iu = Unsqueeze(ie, last)
    ju = Unsqueeze(je, last)
    at = Concat<axis = -1>(iu, ju)
    y = GatherND(x, at)
}"""
Shape = list[int | str]
ANNOTATED: dict[str, Shape] = {
    "i": ["b"],
    "j": ["s"],
    "i4": ["b", 1, 1, 1],
    "j4": [1, 1, 1, "s"],
    "both": ["b", 1, 1, "s"],
}


def grid(body: str, annotated: dict[str, Shape] | None = None) -> ir.Model:
    """Parse, with the shapes that an exporter annotates."""
    model = graph(body)
    for node in model.graph:
        for value in node.outputs:
            if (shape := {**ANNOTATED, **(annotated or {})}.get(str(value.name))) is not None:
                value.shape = ir.Shape(shape)
    return model


def test_golden() -> None:
    model = grid(GRID)
    x = np.arange(6).reshape(2, 3)
    before = compute(model, {"x": x})["y"]
    assert [(s.rewrite, s.reason) for s in sites(model, UnrollGrid())] == [("unroll-grid", None)]
    assert text(model) == expected("""
        y = Unsqueeze(x, node.axes)
        node.axes: [2]
    """).replace("node", model.graph.node(0).inputs[1].name.partition(".")[0])  # type: ignore[union-attr]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert np.array_equal(compute(model, {"x": x})["y"], before)


NO_GRID = "the indices are no grid"
ORDER = "the grid does not cover the data in order"
GUARDS = [
    (NO_GRID, GRID.replace("Range(zero, batch, one)", "Range(one, batch, one)"), {}),
    (NO_GRID, GRID.replace("Range(zero, batch, one)", "Range(zero, batch, two)").replace(
        "int64 one", "int64 two = {2}, int64 one"), {}),
    (NO_GRID, GRID.replace("int64[b, s] x)", "int64[b, s] x, int64[k, 1, 1, m, 2] at)").replace(
        "at = Concat<axis = -1>(iu, ju)", "").replace("[b, 1, 1, s] y", "[k, 1, 1, m] y"), {}),
    (NO_GRID, GRID.replace("ju = Unsqueeze(je, last)", "ju = Unsqueeze(je, last)").replace(
        "je = Expand(j4, shape)", "je = Identity(j4)"), {}),
    (ORDER, GRID.replace("Range(zero, batch, one)", "Range(zero, width, one)"), {"i": ["s"], "both": ["s", 1, 1, "s"],
                                                                                 "i4": ["s", 1, 1, 1]}),
    (ORDER, GRID.replace("(iu, ju)", "(ju, iu)"), {}),
    ("the grid repeats the data", GRID.replace("[b, 1, 1, s] y", "[b, 1, 2, s] y"), {"both": ["b", 1, 2, "s"]}),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "body", "annotated"), GUARDS)
def test_guard(reason: str, body: str, annotated: dict[str, Shape]) -> None:
    model = grid(body, annotated)
    before = serialized(model)
    assert [s.reason for s in sites(model, UnrollGrid())] == [reason]
    assert serialized(model) == before
