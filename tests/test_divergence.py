"""Two graphs side by side: the first value that differs, how far, and where NaN begins."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest

from dlc.divergence import Difference, diverge
from dlc.errors import ModelError
from dlc.inner import HELD
from tests.passes.texts import graph

BOUND = 1e-5
FEEDS = {"x": np.array([[1, -2, 3], [-4, 5, 6]], np.float32)}
BODY = """g (float[n, 3] x) => (float[n, 3] y, int64[n] top)
<float[3] c = {0, 0, 0}, float one = {1}> {
    a = Neg(x)
    b = Max(a, c)
    d = Add(b, one)
    e = Log(d)
    y = Exp(e)
    top = ArgMax <axis = 1, keepdims = 0> (y)
}"""


def pair(old: str, new: str) -> tuple[ir.Model, ir.Model]:
    assert old in BODY
    return graph(BODY), graph(BODY.replace(old, new))


def first(old: str, new: str, *, held: int = HELD) -> Difference:
    found = diverge(*pair(old, new), FEEDS, BOUND, held=held).first
    assert found is not None
    return found


def test_equal_graphs_do_not_diverge() -> None:
    found = diverge(*pair("b = Max(a, c)", "r = Relu(a)\n b = Identity(r)"), FEEDS, BOUND)
    assert (found.first, found.nan) == (None, None)


@pytest.mark.parametrize("held", [HELD, 1], ids=["together", "one at a time"])
def test_the_first_value_and_its_numbers(held: int) -> None:
    found = first("c = {0, 0, 0}", "c = {0, 0.5, 0}", held=held)
    assert (found.value, found.op, found.at) == ("b", "Max", (1, 1))
    assert (found.expected.there, found.got.there) == (0.0, 0.5)
    assert (found.expected.largest, found.got.largest) == (4.0, 4.0)
    assert found.apart == pytest.approx(0.125)
    assert found.expected.type == "float32[2,3]"


def test_a_value_that_only_one_graph_has_is_passed_over() -> None:
    found = first("a = Neg(x)\n    b = Max(a, c)", "z = Mul(x, one)\n    b = Max(z, c)")
    assert found.value == "b"


def test_where_nan_begins_is_found_behind_the_first_difference() -> None:
    found = diverge(*pair("one = {1}", "one = {-1}"), FEEDS, BOUND)
    assert found.first is not None
    assert found.nan is not None
    assert (found.first.value, found.first.got.nans) == ("d", 0)
    assert (found.nan.value, found.nan.op, found.nan.expected.nans, found.nan.got.nans) == ("e", "Log", 0, 4)
    assert found.nan.apart == math.inf
    assert found.nan.at == (0, 0)


def test_nan_that_comes_first_is_both() -> None:
    found = diverge(*pair("b = Max(a, c)", "s = Sqrt(a)\n b = Mul(s, s)"), FEEDS, BOUND)
    assert found.first is not None
    assert found.first == found.nan
    assert (found.first.value, found.first.got.nans) == ("b", 4)


def test_an_integer_that_differs() -> None:
    found = first("top = ArgMax <axis = 1, keepdims = 0>", "top = ArgMin <axis = 1, keepdims = 0>")
    assert (found.value, found.apart, found.at) == ("top", math.inf, (0,))
    assert (found.expected.there, found.got.there) == (1.0, 0.0)


def test_a_shape_that_differs_has_no_place() -> None:
    max_first = "r = ReduceMax <keepdims = 1> (b)\n d = Add(r, one)\n l = Log(d)\n e = Add(l, b)"
    found = first("d = Add(b, one)\n    e = Log(d)", max_first)
    assert (found.value, found.apart, found.at) == ("d", math.inf, None)
    assert (found.expected.type, found.got.type) == ("float32[2,3]", "float32[1,1]")
    assert found.expected.there is None


def test_values_within_the_bound_are_equal() -> None:
    found = diverge(*pair("one = {1}", "one = {1.000001}"), FEEDS, BOUND)
    assert found.first is None
    assert diverge(*pair("one = {1}", "one = {1.000001}"), FEEDS, 1e-8).first is not None


def test_a_sequence_cannot_be_fetched_and_is_passed_over() -> None:
    body = BODY.replace("Add(b, one)", "Add(t, one)").replace(
        "d =", "s = SequenceConstruct(b)\n t = SequenceAt(s, i)\n d ="
    )
    body = body.replace("float one = {1}", "float one = {1}, int64 i = {0}")
    found = diverge(graph(body), graph(body.replace("Add(t, one)", "Add(t, c)")), FEEDS, BOUND)
    assert found.first is not None
    assert found.first.value == "d"


def test_a_graph_that_does_not_run_is_an_error() -> None:
    old, new = pair("c = {0, 0, 0}", "c = {0, 0, 0}")
    new.graph[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match="cannot load"):
        diverge(old, new, FEEDS, BOUND)
