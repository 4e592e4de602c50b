"""From one FP32 graph to each precision: what is built, what is left out, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from dlc.costs import Costs
from dlc.errors import Unsupported
from dlc.passes.base import Pass, Rewritten, Site, rewritten
from dlc.recipe import Recipe
from dlc.runtimes.session import SessionConfig
from dlc.stages.rewriting import rewrite
from dlc.stages.variants import PASSES_OF, build
from dlc.target import detect
from tests.cli.conftest import FEATURES, classifier

RECIPE = Recipe(name="centres", source=classifier)  # type: ignore[arg-type]  # never exported here


@pytest.fixture
def costs() -> Costs:
    feeds = {"x": np.random.default_rng(0).normal(size=(8, FEATURES)).astype(np.float32)}
    return Costs(detect(), SessionConfig(), feeds)


@dataclass(frozen=True)
class Unrunnable(Pass):
    """Insert an operator that no runtime knows."""

    name: ClassVar[str] = "unrunnable"
    changes_numbers: ClassVar[bool] = True

    def call(self, model: ir.Model) -> Rewritten:
        output = model.graph.outputs[0]
        node = output.producer()
        assert node is not None
        node.domain = "acme"
        model.opset_imports["acme"] = 1
        return rewritten(model, [Site(self.name, node.name or "", node.op_type)])


def test_a_variant_that_cannot_run_is_not_built_and_says_why(costs: Costs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PASSES_OF, "int8", lambda *_: [Unrunnable()])
    built = build("int8", rewrite(classifier(), costs, ()), RECIPE, costs)
    assert built.model is None
    assert "ONNX Runtime" in built.reason
    assert "acme" in built.reason


def test_the_manifest_counts_what_was_converted(costs: Costs) -> None:
    built = build("int8", rewrite(classifier(), costs, ()), RECIPE, costs)
    assert built.quantized is not None
    assert built.quantized.converted == {"Gemm": 1}
    assert built.quantized.left == ()
    assert built.quantized.weight_bytes_after < built.quantized.weight_bytes_before


def test_static_int8_without_calibration_data_says_what_to_do(costs: Costs) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[n, 1, 4, 4] x) => (float[n, 1, 2, 2] y)
    <float[1, 1, 3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}> { y = Conv(x, w) }"""
    with pytest.raises(Unsupported, match="calibration"):
        PASSES_OF["int8"](ir.from_onnx_text(text), RECIPE, costs.target)
