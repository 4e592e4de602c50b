"""A lookup of the first constant indices is the first rows: bit for bit, at every length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.interface import Interface
from dlc.passes.slice_table import SliceTable
from tests.passes.exported import EXPORTERS
from tests.passes.texts import compute, expected, graph, serialized, sites, text

POSITIONS = """g (float[b, s, 2] x) => (float[b, s, 2] y)
    <float[4, 2] table = {1, 2, 3, 4, 5, 6, 7, 8}, int64[1, 4] order = {0, 1, 2, 3}, int64[1] zero = {0},
     int64[1] one = {1}> {
    end = Shape<start = 1, end = 2>(x)
    at = Slice(order, zero, end, one, one)
    rows = Gather(table, at)
    y = Add(x, rows)
}"""


def test_golden() -> None:
    model = graph(POSITIONS)
    model.graph.node(2).name = "lookup"
    assert [s.reason for s in sites(model, SliceTable())] == [None]
    assert text(model) == expected("""
        end = Shape(x)
        rows = Slice(table.ordered, zero, end, lookup.axes, one)
        y = Add(x, rows)
        zero: [1]
        one: [1]
        lookup.axes: [1]
        table.ordered: [1,4,2]
    """)


def test_golden_without_axes_and_along_another_axis() -> None:
    model = graph(
        POSITIONS.replace("[4, 2] table", "[2, 4] table").replace("[1, 4] order", "[4] order")
        .replace("zero, end, one, one)", "zero, end)").replace("Gather(", "Gather<axis = 1>(")
        .replace("y = Add(x, rows)", "t = Transpose(rows)  y = Add(x, t)")
    )  # fmt: skip
    model.graph.node(2).name = "lookup"
    x = {"x": np.ones((2, 3, 2), np.float32)}
    before = compute(model, x)
    assert [s.reason for s in sites(model, SliceTable())] == [None]
    assert text(model).splitlines()[1] == "rows = Slice(table.ordered, zero, end, lookup.axes)"
    assert np.array_equal(compute(model, x)["y"], before["y"])


GUARDS = {
    "the table has 8 elements, more than max_elements=7": ("", ""),
    "the table, the indices or the axes are not constant": ("float[b, s, 2] x)", "float[b, s, 2] x, int64[1] one)"),
    "the table or the indices have another reader": ("y = Add(x, rows)", "z = Add(x, rows)  r = Gather(table, one)"
                                                     "  y = Add(z, r)"),
    "an index is out of range": ("{0, 1, 2, 3}", "{0, 1, 2, 4}"),
    "10 elements would be stored in the place of 8": ("[1, 4] order = {0, 1, 2, 3}", "[1, 5] order = {0, 1, 2, 3, 3}"),
}  # fmt: skip


@pytest.mark.parametrize("reason", GUARDS)
def test_guard(reason: str) -> None:
    old, new = GUARDS[reason]
    body = POSITIONS.replace(old, new) if old else POSITIONS
    model = graph(body.replace(",\n     int64[1] one = {1}>", ">") if "int64[1] one)" in new else body)
    before = serialized(model)
    each = SliceTable(max_elements=7) if "max_elements" in reason else SliceTable()
    found = [s.reason for s in sites(model, each)]
    assert found[0] == reason
    assert serialized(model) == before


@pytest.mark.parametrize(("old", "new"), [
    ("y = Add(x, rows)", "z = Add(x, rows)  w = Cast<to = 1>(at)  v = Transpose(w)  y = Add(z, v)"),
    ("float[4, 2] table", "float[4, 2] unused"),
])  # fmt: skip
def test_other_readers_and_tables_that_are_fed(old: str, new: str) -> None:
    body = POSITIONS.replace(old, new)
    body = body.replace("[b, s, 2] x)", "[b, s, 2] x, float[4, 2] table)") if "unused" in new else body
    model = graph(body)
    before = serialized(model)
    assert None not in [s.reason for s in sites(model, SliceTable())]
    assert serialized(model) == before


def test_a_lookup_of_all_indices_is_no_site() -> None:
    assert sites(graph(POSITIONS.replace("Gather(table, at)", "Gather(table, order)")), SliceTable()) == ()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(-4, 3), min_size=4, max_size=4), st.integers(0, 2), st.integers(0, 4), st.integers(0, 99))
def test_properties(order: list[int], batch: int, length: int, seed: int) -> None:
    model = graph(POSITIONS.replace("{0, 1, 2, 3}", f"{{{', '.join(map(str, order))}}}"))
    x = {"x": np.random.default_rng(seed).standard_normal((batch, length, 2)).astype(np.float32)}
    before, interface = compute(model, x), Interface.of(model)
    assert [s.reason for s in sites(model, SliceTable())] == [None]
    assert Interface.of(model) == interface
    assert np.array_equal(compute(model, x)["y"], before["y"])
    assert sites(model, SliceTable()) == ()


class Positions(torch.nn.Module):
    order: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(9, 3)
        self.register_buffer("order", torch.arange(9)[None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x[..., None] + self.table(self.order[:, : x.shape[0]]).transpose(0, 1)
        return out


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_real_module(exporter: str) -> None:
    torch.manual_seed(0)
    example = torch.randn(4, 1)
    model = EXPORTERS[exporter](Positions().eval(), example)
    x = {"x": example.numpy()}
    before = compute(model, x)
    assert [s.reason for s in sites(model, SliceTable())] == [None]
    assert np.array_equal(compute(model, x)["y"], before["y"])
