"""Passes left out, and options put back as they were recorded."""

from __future__ import annotations

import pytest

from dlc.errors import UserError
from dlc.passes.base import Pass
from dlc.passes.fuse_gelu import FuseGelu
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.stages.amending import AS_IT_IS, Amended

PASSES: list[Pass] = [FuseGelu(), QuantizeDynamic(reduce_range=False)]


def test_as_it_is() -> None:
    assert AS_IT_IS.of(PASSES) == PASSES


def test_a_pass_is_left_out() -> None:
    assert Amended(without=frozenset(["fuse-gelu", "no-such-pass"])).of(PASSES) == PASSES[1:]


def test_options_are_put_back_as_json_has_them() -> None:
    given = {"quantize-dynamic": {"reduce_range": "true", "exclude": '["a", "b"]'}}
    assert Amended(options=given).of(PASSES) == [FuseGelu(), QuantizeDynamic(reduce_range=True, exclude=("a", "b"))]


@pytest.mark.parametrize("options", [{"bits": "4"}, {"reduce_range": '"much"'}, {"exclude": "[1"}])
def test_options_that_a_pass_cannot_have(options: dict[str, str]) -> None:
    with pytest.raises(UserError, match="pass quantize-dynamic cannot have the options that were recorded"):
        Amended(options={"quantize-dynamic": options}).of(PASSES)
