"""From one FP32 graph to each precision: what stays, what is rolled back, what is left out, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from dlc.costs import Costs
from dlc.errors import Unsupported
from dlc.passes.base import Pass, Rewritten, Site, rewritten
from dlc.recipe import Recipe
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.stages import variants
from dlc.stages.variants import PASSES_OF, build, rewrite
from dlc.target import Target, detect
from dlc.types import Outputs
from tests.cli.conftest import FEATURES, classifier

RECIPE = Recipe(name="centres", source=classifier)  # type: ignore[arg-type]  # never exported here


@pytest.fixture
def costs() -> Costs:
    feeds = {"x": np.random.default_rng(0).normal(size=(8, FEATURES)).astype(np.float32)}
    return Costs(detect(), SessionConfig(), feeds)


@dataclass(frozen=True)
class Slower(Pass):
    """Follow the product by Sinh and Asinh in turn: a detour that ends where it began."""

    name: ClassVar[str] = "slower"

    def call(self, model: ir.Model) -> Rewritten:
        gemm = next(n for n in model.graph if n.op_type == "Gemm")
        readers, last = list(gemm.outputs[0].uses()), gemm.outputs[0]
        for i in range(40):
            node = ir.node("Asinh" if i % 2 else "Sinh", [last], name=f"detour_{i}")
            node.outputs[0].type, node.outputs[0].shape = last.type, last.shape
            model.graph.insert_before(readers[0].node, node)
            last = node.outputs[0]
        for use in readers:
            use.node.replace_input_with(use.idx, last)
        return rewritten(model, [Site(self.name, gemm.name or "", "Gemm")])


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


@dataclass(frozen=True)
class Liar(Pass):
    """Change nothing and say the opposite."""

    name: ClassVar[str] = "liar"

    def call(self, model: ir.Model) -> Rewritten:
        return Rewritten(model, modified=True)


def use(monkeypatch: pytest.MonkeyPatch, each: Pass) -> None:
    monkeypatch.setattr(variants, "rewrites", lambda _: (each,))


def test_a_slower_rewrite_is_rolled_back_with_its_ratio(costs: Costs, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Slower())
    done = rewrite(classifier(), costs)
    assert done.model is not None
    assert [n.op_type for n in done.model.graph] == ["Gemm", "Softmax"]
    assert [c.kept for c in done.choices] == [False]
    [site] = done.records[-1].sites
    assert site.reason is not None
    assert site.reason.endswith("x: slower on this target")
    assert not done.records[-1].modified


def test_a_rewrite_that_cannot_be_measured_is_skipped_and_the_rest_goes_on(
    costs: Costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Unrunnable())
    done = rewrite(classifier(), costs)
    assert done.model is not None
    assert {n.domain for n in done.model.graph} == {""}
    [site] = done.records[-1].sites
    assert site.reason is not None
    assert site.reason.startswith("cannot be measured: ONNX Runtime")


def test_a_broken_rewrite_is_left_out_and_reported(costs: Costs, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Liar())
    done = rewrite(classifier(), costs)
    assert done.model is not None
    assert done.bug is not None
    assert "liar" in str(done.bug)


def test_a_variant_that_cannot_run_is_not_built_and_says_why(costs: Costs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PASSES_OF, "int8", lambda *_: [Unrunnable()])
    built = build("int8", rewrite(classifier(), costs), RECIPE, costs)
    assert built.model is None
    assert "ONNX Runtime" in built.reason
    assert "acme" in built.reason


def test_the_manifest_counts_what_was_converted(costs: Costs) -> None:
    built = build("int8", rewrite(classifier(), costs), RECIPE, costs)
    assert built.quantized is not None
    assert built.quantized.converted == {"Gemm": 1}
    assert built.quantized.left == ()
    assert built.quantized.weight_bytes_after < built.quantized.weight_bytes_before


def test_static_int8_without_calibration_data_says_what_to_do(costs: Costs) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[n, 1, 4, 4] x) => (float[n, 1, 2, 2] y)
    <float[1, 1, 3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}> { y = Conv(x, w) }"""
    with pytest.raises(Unsupported, match="calibration"):
        PASSES_OF["int8"](ir.from_onnx_text(text), RECIPE, costs.target)


@pytest.mark.parametrize(("opset", "most"), [(21, 21), (27, 23)])
def test_attention_follows_the_target(opset: int, most: int) -> None:
    target: Target = replace(detect(), opset=opset)
    [attention] = [p for p in variants.rewrites(target) if p.name == "fuse-attention"]
    assert attention.options["max_opset"] == most


def test_checking_each_pass_names_the_one_that_left_a_model_that_does_not_run(
    costs: Costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(model: ir.Model) -> Outputs:
        with OrtCpuRunner(model, SessionConfig(graph_optimization="none")) as runner:
            return runner.run(costs.feeds)

    use(monkeypatch, Unrunnable())
    done = rewrite(classifier(), costs, evaluate=evaluate)
    assert done.model is not None
    assert "unrunnable: left a model that does not run" in str(done.bug)
