"""Arithmetic with exactly 0 or 1 goes, and so do choices that are made; with anything near it stays."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from dlc.passes.canonicalize import Canonicalize
from dlc.passes.narrowing import MOST

TEXT = """<ir_version: 10, opset_import: ["": 20]>
g (float[n, 4] x, float[n, 4] z) => (float[n, 4] y)
<float zero = {{0}}, float one = {{1}}, float eps = {{1e-12}}, float near = {{1.000001}}, float[1, 1] wide = {{0}},
 float[1, 1, 1] deep = {{0}}, float[4] row = {{0, 0, 0, 0}}, float[4] half = {{0, 0, 0, 1}},
 bool true = {{1}}, bool false = {{0}}, bool[4] rows = {{1, 1, 1, 1}}, bool[4] some = {{1, 0, 1, 1}}>
{{ a = {}  y = Relu(a) }}"""


def operators(expression: str) -> list[str]:
    model = ir.from_onnx_text(TEXT.format(expression))
    Canonicalize()(model)
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    "expression",
    ["Add(x, zero)", "Add(zero, x)", "Sub(x, zero)", "Mul(x, one)", "Mul(one, x)", "Div(x, one)", "Add(x, wide)",
     "Add(x, row)", "Where(true, x, z)", "Where(false, z, x)", "Where(rows, x, one)"],
)  # fmt: skip
def test_neutral_arithmetic_is_dropped(expression: str) -> None:
    assert operators(expression) == ["Relu"]


@pytest.mark.parametrize(
    "expression",
    ["Add(x, eps)", "Sub(x, eps)", "Mul(x, near)", "Div(x, near)", "Sub(zero, x)", "Div(one, x)", "Mul(x, zero)",
     "Add(x, z)", "Add(x, half)", "Where(some, x, z)"],
)  # fmt: skip
def test_anything_else_is_kept(expression: str) -> None:
    assert operators(expression) == [expression.partition("(")[0], "Relu"]


def test_a_constant_of_higher_rank_is_kept() -> None:
    """It gives the result another dimension."""
    text = TEXT.format("Add(x, deep)").replace("float[n, 4] y", "float[1, n, 4] y")
    model = ir.from_onnx_text(text)
    Canonicalize()(model)
    assert [node.op_type for node in model.graph] == ["Add", "Relu"]


LOGIC = """<ir_version: 10, opset_import: ["": 20]>
g (bool[n, 4] p, bool[1, 4] q) => (bool[n, 4] y)
<bool true = {{1}}, bool false = {{0}}, bool[4] all = {{1, 1, 1, 1}}>
{{ a = {}  y = Not(a) }}"""


@pytest.mark.parametrize(
    ("expression", "left"),
    [("And(p, true)", ["Not"]), ("And(all, p)", ["Not"]), ("Or(false, p)", ["Not"]), ("And(p, false)", ["And", "Not"]),
     ("Or(p, all)", ["Or", "Not"]), ("And(p, q)", ["And", "Not"])],
)  # fmt: skip
def test_logic(expression: str, left: list[str]) -> None:
    model = ir.from_onnx_text(LOGIC.format(expression))
    Canonicalize()(model)
    assert [node.op_type for node in model.graph] == left


WIDENED = """<ir_version: 10, opset_import: ["": 20]>
g (float[n, 4] x, float[n, 1] c) => (float[n, 4] y) {{ s = Shape(x)  w = Expand(c, s)  {} }}"""


@pytest.mark.parametrize(
    ("readers", "left"),
    [
        ("y = Mul(x, w)", ["Mul"]),
        ("a = Neg(w)  b = Exp(a)  y = Sub(x, b)", ["Neg", "Exp", "Sub"]),
        ("a = Add(w, w)  y = Mul(a, x)", ["Add", "Mul"]),
        ("a = Neg(w)  b = Mul(a, w)  y = Max(x, b, a)", ["Neg", "Mul", "Max"]),
        ("y = Neg(w)", ["Shape", "Expand", "Neg"]),  # the output would lose its width
        ("a = Neg(w)  y = Mul(a, w)", ["Shape", "Expand", "Neg", "Mul"]),  # both ways end without it
        ("a = Mul(x, w)  b = Softmax(w)  y = Add(a, b)", ["Shape", "Expand", "Mul", "Softmax", "Add"]),
        ("y = Concat<axis = 0>(w)  a = Mul(x, w)", ["Shape", "Expand"]),
    ],
)  # fmt: skip
def test_an_expand_that_readers_repeat(readers: str, left: list[str]) -> None:
    model = ir.from_onnx_text(WIDENED.format(readers))
    Canonicalize()(model)
    assert [node.op_type for node in model.graph] == left


def test_a_neutral_row_that_widens_the_result_is_kept() -> None:
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["": 20]>
        g (float[n, 1] c) => (float[n, 4] y) <float[4] row = {0, 0, 0, 0}> { a = Add(c, row)  y = Relu(a) }""")
    Canonicalize()(model)
    assert [node.op_type for node in model.graph] == ["Add", "Relu"]


def test_an_expand_to_a_size_that_nothing_else_has_is_kept() -> None:
    """Another name may be another size, though today's model never runs with one."""
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["": 20]>
        g (float[n, 4] x, float[1, 4] c, float[m, 4] z) => (float[k, 4] y) {
            s = Shape(z)  w = Expand(c, s)  y = Mul(x, w) }""")
    Canonicalize()(model)
    assert [node.op_type for node in model.graph] == ["Shape", "Expand", "Mul"]


@pytest.mark.parametrize(("length", "goes"), [(MOST - 1, True), (MOST, False)])
def test_a_long_way_to_where_it_is_wide_again_is_not_followed(length: int, goes: bool) -> None:
    chain = "  ".join(f"a{i + 1} = Neg(a{i})" for i in range(length))
    model = ir.from_onnx_text(WIDENED.format(f"{chain}  y = Sub(x, a{length})").replace("w =", "a0 ="))
    Canonicalize()(model)
    assert ("Expand" in {node.op_type for node in model.graph}) is not goes


def test_what_became_narrower_says_so() -> None:
    model = ir.from_onnx_text(WIDENED.format("a = Neg(w)  y = Sub(x, a)"))
    Canonicalize()(model)
    assert model.graph.node(0).outputs[0].shape == ir.Shape(["n", 1])
