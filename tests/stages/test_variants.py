"""From one FP32 graph to each precision: what is built, what is left out, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from dlc.costs import Costs
from dlc.errors import PassError, Unsupported
from dlc.passes.base import Pass, Rewritten, Site, clone, rewritten
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.recipe import Recipe
from dlc.runtimes.session import SessionConfig
from dlc.stages.defaults import quantized_rewrites
from dlc.stages.rewriting import rewrite
from dlc.stages.variants import PASSES_OF, build
from dlc.target import detect
from tests.cli.conftest import FEATURES, classifier
from tests.passes.quantized import dynamically
from tests.passes.texts import compute

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
        PASSES_OF["int8"](ir.from_onnx_text(text), RECIPE, costs)


def test_what_was_quantized_is_rewritten_by_measurement(costs: Costs) -> None:
    base = rewrite(classifier(), costs, ())
    QuantizeDynamic(reduce_range=not costs.target.integer_dot)(plain := clone(base.model))
    built = build("int8", base, RECIPE, costs)
    assert built.model is not None
    names = [r.name for r in built.records]
    assert names[names.index("quantize-dynamic") + 1] == "canonicalize"
    assert names[-4:] == [each.name for each in quantized_rewrites()]
    assert [c.rewrite for c in built.choices].count("all") == 2
    assert np.array_equal(compute(built.model, costs.feeds)["scores"], compute(plain, costs.feeds)["scores"])


def test_a_model_that_came_quantized_is_rewritten_by_measurement(costs: Costs) -> None:
    model = dynamically(classifier())
    before = compute(model, costs.feeds)["scores"]
    done = rewrite(model, costs, quantized_rewrites())
    [site] = [s for r in done.records if r.name == "fuse-integer-matmul" for s in r.sites]
    assert site.ratio is not None
    assert not done.bugs
    assert np.array_equal(compute(done.model, costs.feeds)["scores"], before)


def test_a_rewrite_that_broke_is_left_out_and_reported(costs: Costs, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str | None:
        raise PassError("fuse-integer-matmul", "by design")

    monkeypatch.setattr("dlc.passes.fuse_integer_matmul.FuseIntegerMatMul.rewrite", broken)
    built = build("int8", rewrite(classifier(), costs, ()), RECIPE, costs)
    assert built.model is not None
    assert built.bug is not None
    assert "by design" in str(built.bug)
