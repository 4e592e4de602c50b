"""What the recipes of the zoo expect is what is found, no more and no less."""

from __future__ import annotations

import pytest

from dlc.errors import CapabilityError
from dlc.export import export
from dlc.lookup import load
from dlc.models import ZOO
from dlc.passes.canonicalize import Canonicalize
from dlc.stages.defaults import rewrites
from dlc.stages.expectations import hits
from dlc.stages.rewriting import Rewritten
from dlc.target import detect
from tests.passes.test_rewrite import NAMES

NOTHING_TO_FUSE = ("silero-vad",)


@pytest.mark.parametrize("name", NAMES)
def test_rewrites_fit_where_the_recipe_expects_them(name: str) -> None:
    target = detect()
    try:
        recipe = load(ZOO[name])()
    except CapabilityError as error:
        pytest.skip(str(error))
    model = export(recipe, opset=target.opset, ir_version=target.ir_version).model
    Canonicalize()(model)
    assert bool(recipe.expect_fusions) == (name not in NOTHING_TO_FUSE)
    for hit in hits(Rewritten(model, canonical=model), rewrites(target), recipe.expect_fusions):
        assert hit.found == hit.expected, hit
