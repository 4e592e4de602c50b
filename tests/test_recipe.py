"""Declarations check themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dlc import Dim, Gates, Input, Recipe
from dlc.errors import RecipeError


@pytest.mark.parametrize(
    ("gates", "says"),
    [
        ({"retention": 99}, "write 0.99"),
        ({"retention": float("nan")}, "retention=nan"),
        ({"cosine": 5}, "cosine=5"),
        ({"max_latency_ratio": float("nan")}, "max_latency_ratio"),
        ({"max_size_ratio": -1}, "write 0.5"),
        ({"max_drop": -0.3}, "write 0.3"),
        ({"agreement": 99}, "agreement=99"),
    ],
)
def test_gates(gates: dict[str, float], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        Gates(**gates)


def test_inputs() -> None:
    with pytest.raises(RecipeError, match="-1 is no size"):
        Input("float32", (-1, 16))
    with pytest.raises(RecipeError, match="low=2"):
        Input("float32", (4,), low=2, high=1)


def test_dims() -> None:
    with pytest.raises(RecipeError, match="1 <= min <= max"):
        Dim(4, 2)
    with pytest.raises(RecipeError, match="outside 1"):
        Dim(1, 4, typical=9)


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"inputs": [Input("float32", (4,))]}, "inputs maps names"),
        ({"dims": ["n"]}, "dims maps names"),
        ({"metric": "topp1"}, "did you mean 'top1'"),
        ({"variants": "int9"}, "unknown variant 'int9'"),
        ({"int8": "weight"}, "unknown form of int8, 'weight'; did you mean 'weights'"),
        ({"invariants": "some-key-visibel"}, "unknown invariant 'some-key-visibel'; did you mean 'some-key-visible'"),
        ({"name": "../up"}, "cannot be a folder name"),
        ({"expect_fusions": ["attention"]}, "expect_fusions maps names"),
        ({"expect_fusions": {"atention": 6}}, "no rewrite is named 'atention'; did you mean 'attention'"),
        ({"expect_fusions": {"attention": 0}}, "attention = 0 is no number of places"),
        ({"expect_fusions": {"attention": "6"}}, "attention = '6' is no number of places"),
        ({"expect_fusions": {"attention": True}}, "attention = True is no number of places"),
        ({"expect_fusions": {"attention": 6, "fuse-attention": 6}}, "names 'fuse-attention' twice"),
        ({"rewrites": ("my_rules.py:rule",)}, "rewrites holds a str, not a rule"),
        ({"rewrites": 3}, "rewrites holds a int, not a rule"),
        ({"inputs": {"x": Input("float32", ("btch", 4))}, "dims": {"batch": Dim()}}, "did you mean 'batch'"),
    ],
)
def test_wrong_declarations(declared: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        Recipe(**{"name": "m", "source": Path("m.onnx"), **declared})


def test_plain_words_will_do() -> None:
    words: dict[str, Any] = {"source": "m.onnx", "metric": "top1", "variants": "int8", "invariants": "some-key-visible"}
    recipe = Recipe(name="m", **words)
    assert recipe.source == Path("m.onnx")
    assert recipe.variants == ("int8",)
    assert recipe.invariants == ("some-key-visible",)
    assert recipe.metric is not None
    assert recipe.metric.name == "top1"


def test_expectations_are_kept_under_whole_names_and_rules_as_rewrites() -> None:
    from dataclasses import replace

    from onnxscript.rewriter import RewriteRule

    rule = RewriteRule(lambda op, x: op.Neg(op.Neg(x)), lambda _op, x: x, name="my-rule")
    given: dict[str, Any] = {"rewrites": rule, "expect_fusions": {"attention": 6, "my-rule": 1}}
    recipe = Recipe(name="m", source=Path("m.onnx"), **given)
    assert [each.name for each in recipe.rewrites] == ["my-rule"]
    assert recipe.expect_fusions == {"fuse-attention": 6, "my-rule": 1}
    again = replace(recipe, name="n")
    assert (again.rewrites, again.expect_fusions) == (recipe.rewrites, recipe.expect_fusions)
