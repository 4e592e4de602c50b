"""What stays in FP32 because a recipe says so, in every precision, and what the record says about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from dlc import pipeline
from dlc.costs import Costs
from dlc.errors import RecipeError
from dlc.passes.base import clone
from dlc.quantization import OPTIONS, Int8, Recovery
from dlc.recipe import PRECISIONS, Dataset, Precision, Recipe
from dlc.runtimes.session import SessionConfig
from dlc.stages.excluding import check_excluded, excluded
from dlc.stages.recurrent import recurrent
from dlc.stages.rewriting import rewrite
from dlc.stages.variants import PASSES_OF, build
from dlc.stages.workshop import Workshop
from dlc.target import detect
from tests.passes.weights import normal, weighted

PRODUCTS = """g (float[m, 64] x, float[64, 64] w, float[64, 64] v) => (float[m, 64] y) {
    h = MatMul(x, w) r = Relu(h) y = MatMul(r, v)
}"""
CONVOLUTIONS = """g (float[n, 16, 6, 6] x, float[16, 16, 1, 1] w, float[16, 16, 1, 1] v) => (float[n, 16, 6, 6] y) {
    h = Conv(x, w) r = Relu(h) y = Conv(r, v)
}"""
IMAGES = Dataset("drawn", lambda: [{"x": normal(32, 16, 6, 6, seed=s)} for s in (3, 4)])


def products() -> ir.Model:
    model = weighted(PRODUCTS, {"w": normal(64, 64), "v": normal(64, 64, seed=1)})
    for value in (v for node in model.graph for v in node.outputs):
        value.dtype = ir.DataType.FLOAT
    return model


def convolutions() -> ir.Model:
    return weighted(CONVOLUTIONS, {"w": normal(16, 16, 1, 1), "v": normal(16, 16, 1, 1, seed=1)})


def declared(**given: Any) -> Recipe:
    return Recipe(name="m", source=Path("m.onnx"), **given)


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (("node_h",), ("node_h",)),
        (("*_[hy]",), ("node_h", "node_y")),
        (("MatMul",), ("node_h", "node_y")),
        (("Rel?", "node_y"), ("node_r", "node_y")),
        ((), ()),
    ],
)
def test_a_pattern_is_a_name_or_an_operator(patterns: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert excluded(products(), patterns) == names


def test_a_name_with_brackets_is_itself() -> None:
    model = products()
    model.graph[0].name = "layers[0]/MatMul"
    assert excluded(model, ("layers[0]/MatMul",)) == ("layers[0]/MatMul",)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("node_hh", "'node_hh' matches no node and no operator of the rewritten graph; the nearest are 'node_h'"),
        ("matmul", "the nearest are 'MatMul'"),
        ("*softmax*", "; there are 'MatMul', 'Relu'"),
    ],
)
def test_a_pattern_that_matches_nothing_names_the_nearest(pattern: str, says: str) -> None:
    with pytest.raises(RecipeError) as error:
        excluded(products(), ("node_y", pattern))
    assert says in str(error.value)


@pytest.mark.parametrize("precision", [p for p in PRECISIONS if p != "fp32"])
def test_a_wrong_pattern_is_found_before_anything_is_built(precision: Precision) -> None:
    name = "int8" if precision == "mixed" else precision
    recipe = declared(**{name: OPTIONS[name](exclude=("Attention",))})
    check_excluded(products(), recipe, ("fp32",))
    with pytest.raises(RecipeError, match="'Attention' matches no node"):
        check_excluded(products(), recipe, ("fp32", precision))


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "int4"])
def test_every_precision_leaves_it_in_fp32_and_says_so(precision: Precision) -> None:
    model, feeds = products(), {"x": normal(8, 64, seed=5)}
    costs = Costs(detect(), SessionConfig(), feeds)
    recipe = declared(**{precision: OPTIONS[precision](exclude=("node_h",))})
    built = build(precision, rewrite(model, costs, ()), recipe, costs)
    assert built.model is not None
    assert built.quantized is not None
    [left] = built.quantized.left
    assert (left.node, left.op) == ("node_h", "MatMul")
    assert left.reason is not None
    assert "excluded" in left.reason or "blocked by name" in left.reason
    assert built.quantized.converted["MatMul"] == 1
    kept = built.model.graph.initializers["w"].const_value
    assert kept is not None
    assert np.array_equal(kept.numpy(), normal(64, 64))
    assert any("node_h" in str(record.options) for record in built.records)  # the manifest has these


def test_static_int8_leaves_it_in_fp32() -> None:
    recipe = declared(int8=Int8(exclude=("node_y",)), calibration=IMAGES)
    passes = PASSES_OF["int8"](convolutions(), recipe, detect())
    [*_, record] = pipeline.run(clone(convolutions()), passes)
    assert {s.node: s.reason for s in record.sites if s.op == "Conv"} == {"node_h": None, "node_y": "excluded"}


def test_a_mix_does_not_reconsider_it() -> None:
    model, costs = convolutions(), Costs(detect(), SessionConfig(), {"x": normal(1, 16, 6, 6)})
    recipe = declared(int8=Int8(exclude=("node_y",)), calibration=IMAGES)
    fold = PASSES_OF["int8"](model, recipe, detect())
    assert Workshop(model, [fold, fold], recipe, costs, IMAGES).names == ["node_h"]


def test_recurrent_operators() -> None:
    body = """g (float[t, n, 32] x, float[1, 128, 32] w, float[1, 128, 32] r, float[1, 96, 32] u, float[1, 96, 32] s)
        => (float[t, 1, n, 32] y, float[t, 1, n, 32] z) {
        y = LSTM<hidden_size = 32>(x, w, r)
        z = GRU<hidden_size = 32>(x, u, s)
    }"""
    shapes = {"w": 128, "r": 128, "u": 96, "s": 96}
    model = weighted(body, {name: normal(1, rows, 32) for name, rows in shapes.items()})

    def reasons(options: Int8) -> list[str | None]:
        records = pipeline.run(clone(model), recurrent(model, detect(), options))
        return [s.reason for record in records for s in record.sites]

    lstm, gru = reasons(Int8())
    assert lstm is not None
    assert "reads the input 'x'" in lstm
    assert gru is None
    assert reasons(Int8(lstm_inputs=True)) == [None, None]
    assert reasons(Int8(lstm_inputs=True, exclude=("LSTM", "*z"))) == ["excluded", "excluded"]


@pytest.mark.parametrize(
    ("recover", "correct", "learn"),
    [((), False, False), (("correct-bias",), True, False), (("learn-rounding",), False, True)],
)
def test_only_what_may_recover_accuracy_is_tried(
    recover: tuple[Recovery, ...], correct: bool, learn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is tried is taken, so that what was not tried shows."""
    for module in ("calibrating", "recovering"):
        monkeypatch.setattr(f"dlc.stages.{module}.closest", lambda _, forms, *__, **___: forms[-1])
    recipe = declared(int8=Int8(recover=recover), calibration=IMAGES)
    target = replace(detect(), arch="x86_64", isa=("avx512_vnni",))
    [last] = PASSES_OF["int8"](convolutions(), recipe, target)
    assert (getattr(last, "correct_bias", None), getattr(last, "learn_rounding", None)) == (correct, learn)
    all_of_them = declared(calibration=IMAGES)
    assert [p.name for p in PASSES_OF["int8"](convolutions(), all_of_them, target)] == ["equalize-layers", last.name]


@pytest.mark.parametrize(("recover", "names"), [((), 1), (("smooth-quant",), 2)])
def test_smoothing_may_be_left_out(recover: tuple[Recovery, ...], names: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlc.stages.recovering.closest", lambda _, forms, *__, **___: forms[-1])
    text = """g (float[n, 16] x, float[16] gamma, float[16, 8] w) => (float[n, 8] y) {
        h = LayerNormalization(x, gamma) y = MatMul(h, w)
    }"""
    gamma = np.ones(16, np.float32)
    gamma[0] = 40.0
    model = weighted(text, {"gamma": gamma, "w": normal(16, 8)})
    model.graph[0].outputs[0].shape = ir.Shape(["n", 16])
    model.graph[0].outputs[0].dtype = ir.DataType.FLOAT
    rows = Dataset("rows", lambda: [{"x": normal(64, 16, seed=2)}])
    passes = PASSES_OF["int8"](model, declared(int8=Int8(recover=recover), calibration=rows), detect())
    assert len(passes) == names
