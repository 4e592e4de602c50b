"""Arithmetic with exactly 0 or 1 goes; with anything near it stays."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from dlc.passes.canonicalize import Canonicalize

TEXT = """<ir_version: 10, opset_import: ["": 20]>
g (float[n, 4] x, float[n, 4] z) => (float[n, 4] y)
<float zero = {{0}}, float one = {{1}}, float eps = {{1e-12}}, float near = {{1.000001}}, float[1, 1] wide = {{0}},
 float[1, 1, 1] deep = {{0}}, float[4] row = {{0, 0, 0, 0}}>
{{ a = {}  y = Relu(a) }}"""


def operators(expression: str) -> list[str]:
    model = ir.from_onnx_text(TEXT.format(expression))
    Canonicalize()(model)
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    "expression",
    ["Add(x, zero)", "Add(zero, x)", "Sub(x, zero)", "Mul(x, one)", "Mul(one, x)", "Div(x, one)", "Add(x, wide)"],
)
def test_neutral_arithmetic_is_dropped(expression: str) -> None:
    assert operators(expression) == ["Relu"]


@pytest.mark.parametrize(
    "expression",
    ["Add(x, eps)", "Sub(x, eps)", "Mul(x, near)", "Div(x, near)", "Sub(zero, x)", "Div(one, x)", "Mul(x, zero)",
     "Add(x, z)", "Add(x, row)"],
)  # fmt: skip
def test_anything_else_is_kept(expression: str) -> None:
    assert operators(expression) == [expression.partition("(")[0], "Relu"]


def test_a_constant_of_higher_rank_is_kept() -> None:
    """It gives the result another dimension."""
    text = TEXT.format("Add(x, deep)").replace("float[n, 4] y", "float[1, n, 4] y")
    model = ir.from_onnx_text(text)
    Canonicalize()(model)
    assert [node.op_type for node in model.graph] == ["Add", "Relu"]
