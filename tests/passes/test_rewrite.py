"""What every rewrite promises: a look changes nothing, and tells what the rewrite then does."""

from __future__ import annotations

import pytest

from dlc.errors import CapabilityError
from dlc.export import export
from dlc.lookup import load
from dlc.models import ZOO
from dlc.passes.base import clone
from dlc.passes.canonicalize import Canonicalize
from dlc.pipeline import digest
from dlc.stages.defaults import rewrites
from dlc.target import detect

SLOW = ("fracast",)
"""Their export takes a minute."""
NAMES = [
    pytest.param(n, marks=[*[pytest.mark.zoo] * (not n.startswith("digits")), *[pytest.mark.slow] * (n in SLOW)])
    for n in ZOO
]


@pytest.mark.parametrize("name", NAMES)
def test_a_look_changes_nothing_and_tells_what_the_rewrite_does(name: str) -> None:
    target = detect()
    try:
        recipe = load(ZOO[name])()
    except CapabilityError as error:
        pytest.skip(str(error))
    model = export(recipe, opset=target.opset, ir_version=target.ir_version).model
    Canonicalize()(model)
    for each in rewrites(target):
        before = digest(model)
        fits = [reason is None for _, reason in each.survey(model)]
        assert digest(model) == before, each.name
        result = each(trial := clone(model))
        assert result.modified == any(fits), each.name
        model = trial
