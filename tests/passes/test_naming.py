"""Words for rewrites, long and short."""

from __future__ import annotations

import pytest

from dlc.errors import RecipeError
from dlc.passes.naming import matching, resolve
from dlc.stages.defaults import rewrites
from dlc.target import detect


@pytest.mark.parametrize("word", ["fuse-attention", "attention"])
def test_long_and_short(word: str) -> None:
    assert resolve(word) == "fuse-attention"


def test_every_rewrite_of_the_pipeline_has_a_short_name_of_its_own() -> None:
    for each in rewrites(detect()):
        assert resolve(each.name.partition("-")[2]) == each.name


def test_a_recipes_own() -> None:
    assert resolve("mine", ["mine"]) == "mine"
    assert resolve("rule", ["my-rule"]) == "my-rule"


def test_a_whole_name_goes_before_a_short_one() -> None:
    assert matching("rule", ["my-rule", "rule"]) == ["rule"]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("atention", "no rewrite is named 'atention'; did you mean 'attention'?"),
        ("quantize-dynamic", "no rewrite is named 'quantize-dynamic'"),
        ("gelu", "'gelu' may mean 'my-gelu' or 'fuse-gelu': write the whole name"),
    ],
)
def test_a_word_that_names_none_or_several(word: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve(word, ["my-gelu"])
    assert says in str(caught.value)
