"""What the command line and TOML say about a mix."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlc.errors import RecipeError
from dlc.search import Mixing, Objective
from dlc.sources.mixing_options import Stated, applied, from_command_line
from dlc.sources.recipe_files import load_recipe


def test_what_is_not_said_stays() -> None:
    before = Mixing(Objective(within_ms=2.0), 7, 9.0)
    assert applied(Stated(), before) == before
    assert applied(Stated(evaluations=3), before) == Mixing(Objective(within_ms=2.0), 3, 9.0)
    assert applied(Stated(keep=0.99, time_budget="2min"), before) == Mixing(Objective(keep=0.99), 7, 120.0)
    assert applied(Stated(within_size="8MB"), before).objective == Objective(within_bytes=8_000_000)


def test_an_option_without_effect_is_refused() -> None:
    with pytest.raises(RecipeError, match="--within-size is about the variant mixed"):
        from_command_line(Stated(within_size="8MB"), Mixing(), ("fp32", "int8"))
    assert from_command_line(Stated(), Mixing(), ("fp32",)) == Mixing()
    assert from_command_line(Stated(keep=0.9), Mixing(), ("mixed",)).objective == Objective(keep=0.9)


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(f'variants = ["fp32", "mixed"]\n{text}')
    return path


def test_toml(tmp_path: Path) -> None:
    text = 'mixed = { within_size = "8MiB", evaluations = 12, time_budget = "90s" }'
    recipe = load_recipe("model.onnx", written(tmp_path, text))
    assert recipe.mixed == Mixing(Objective(within_bytes=8 << 20), 12, 90.0)
    assert recipe.variants == ("fp32", "mixed")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mixed = { keeps = 0.9 }", "unknown key 'keeps' in mixed; did you mean 'keep'"),
        ("mixed = { keep = 0.9, within_ms = 3.0 }", "one objective, not keep and within_ms"),
        ('mixed = { within_size = "8" }', "'8' is no size"),
        ('mixed = { keep = "0.9" }', "Expected `float"),
    ],
)
def test_mistakes_in_toml_name_the_file(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(RecipeError, match=r"recipe\.toml") as error:
        load_recipe("model.onnx", path)
    assert words in str(error.value)
