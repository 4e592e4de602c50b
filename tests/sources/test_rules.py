"""Rules that a TOML recipe names, and what it expects of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dlc.errors import RecipeError
from dlc.sources.recipe_files import declared, load_recipe

RULES = """
from onnxscript.rewriter import RewriteRule
from neighbour_of_rules import NAME

def pattern(op, x):
    return op.Neg(op.Neg(x))

def replacement(op, x):
    return op.Identity(x)

rule = RewriteRule(pattern, replacement, name=NAME)
number = 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is not the current one, with rules, and a package that holds the same."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "neighbour_of_rules.py").write_text("NAME = 'mine'")
    (tmp_path / "my_rules.py").write_text(RULES)
    (tmp_path / "package_of_rules").mkdir()
    (tmp_path / "package_of_rules" / "__init__.py").write_text("")
    (tmp_path / "package_of_rules" / "module.py").write_text(RULES.replace("=NAME", "='other'"))
    return tmp_path


def toml(folder: Path, text: str) -> Path:
    (folder / "r.toml").write_text(f"source = 'm.onnx'\n{text}")
    return folder / "r.toml"


def test_files_and_modules_beside_the_recipe(folder: Path) -> None:
    text = "rewrites = ['my_rules.py:rule', 'package_of_rules.module:rule']\n[expect_fusions]\nmine = 2\ngelu = 6"
    recipe = load_recipe(str(toml(folder, text)))
    assert [each.name for each in recipe.rewrites] == ["mine", "other"]
    assert not any(each.trusted for each in recipe.rewrites)
    assert recipe.expect_fusions == {"mine": 2, "fuse-gelu": 6}


def test_what_is_declared_joins_what_the_source_says(folder: Path) -> None:
    python = "from dlc import Recipe\nfrom my_rules import rule\nrecipe = Recipe(name='m', source='m.onnx', rewrites="
    (folder / "r.py").write_text(f"{python}(rule,), expect_fusions={{'gelu': 6, 'attention': 6}})")
    (folder / "more.toml").write_text("rewrites = ['package_of_rules.module:rule']\nexpect_fusions = { attention = 5 }")
    recipe = load_recipe(str(folder / "r.py"), folder / "more.toml")
    assert [each.name for each in recipe.rewrites] == ["mine", "other"]
    assert recipe.expect_fusions == {"fuse-gelu": 6, "fuse-attention": 5}


def test_a_recipe_is_read_for_a_model_that_it_does_not_name(folder: Path) -> None:
    recipe = declared(str(toml(folder, "rewrites = ['my_rules.py:rule']")), Path("other.onnx"))
    assert ([each.name for each in recipe.rewrites], recipe.source) == (["mine"], Path("other.onnx"))


WRONG = {
    "rewrites = ['my_rules.py:rul']": "my_rules.py has no 'rul'; did you mean 'rule'?",
    "rewrites = ['no_rules.py:rule']": "no_rules.py: no such file",
    "rewrites = ['no_such_package_of_rules:rule']": "ModuleNotFoundError: No module named 'no_such_package_of_rules'",
    "rewrites = ['my_rules']": "'my_rules' names nothing: write 'rules.py:name' or 'package.module:name'",
    "rewrites = ['my_rules.py:number']": "rewrites holds a int, not a rule",
    "rewrites = ['my_rules.py:rule', 'my_rules.py:rule']": "two rewrites are named 'mine'",
    "rewrites = ['broken_rules.py:rule']": "broken_rules.py:2: ZeroDivisionError: division by zero",
    "rewrites = 3": "Expected `array`, got `int`",
    "expect_fusions = { atention = 6 }": "no rewrite is named 'atention'; did you mean 'attention'?",
    "expect_fusions = { attention = 0 }": "0 is no number of places: write 1 or more",
    "expect_fusions = { attention = 'six' }": "Expected `int`, got `str`",
    "rewrite = ['my_rules.py:rule']": "unknown key 'rewrite'; did you mean 'rewrites'?",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_declaration_names_file_and_key(folder: Path, text: str) -> None:
    (folder / "broken_rules.py").write_text("x = 1\nx / 0")
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(toml(folder, text)))
    assert str(caught.value).startswith(f"recipe {folder / 'r.toml'}: ")
    assert WRONG[text] in str(caught.value)
