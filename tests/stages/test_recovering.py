"""Each technique is kept only if the calibration data says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc import pipeline
from dlc.manifest import Agreement
from dlc.passes.base import Pass, clone
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.passes.quantize_static import QuantizeStatic
from dlc.recipe import Dataset, Gates, Recipe
from dlc.runtimes import RUNTIMES
from dlc.stages.calibrating import recovered
from dlc.stages.recovering import Closeness, applied, closest, dynamic, rounded, sqnr_db
from dlc.stages.variants import PASSES_OF
from dlc.target import detect
from dlc.types import Array
from tests.passes.texts import annotated
from tests.stages.elsewhere import PATH, Elsewhere

RNG = np.random.default_rng(0)
REDUCE = not detect().integer_dot


def numbers(*shape: int) -> str:
    return ", ".join(f"{v:.6f}" for v in RNG.standard_normal(shape).reshape(-1))


OUTLIER = ", ".join(["40.0", *["1.0"] * 15])
NORMED = f"""g (float[n, 16] x) => (float[n, 8] y)
    <float[16] gamma = {{{OUTLIER}}}, float[16, 8] w = {{{numbers(16, 8)}}}> {{
    h = LayerNormalization(x, gamma)
    y = MatMul(h, w)
}}"""
CONVOLVED = f"""g (float[n, 3, 8, 8] x) => (float[n, 4, 8, 8] y)
    <float[8, 3, 1, 1] w = {{{numbers(8, 3)}}}, float[8] b = {{{numbers(8)}}},
     float[4, 8, 1, 1] v = {{{numbers(4, 8)}}}, float[4] d = {{{numbers(4)}}}> {{
    c = Conv(x, w, b)
    r = Relu(c)
    y = Conv(r, v, d)
}}"""


def data(*shape: int) -> Dataset:
    x: Array = RNG.standard_normal((64, *shape)).astype(np.float32)
    return Dataset("drawn", lambda: iter([{"x": x[:32]}, {"x": x[32:]}]))


def test_an_outlier_channel_is_smoothed() -> None:
    model, seen = annotated(NORMED), data(16)
    plain = QuantizeDynamic(reduce_range=REDUCE)
    *before, last = dynamic(model, seen, plain, threads=1)
    assert [each.name for each in before] == ["smooth-quant"]
    assert last.name == plain.name
    assert sqnr_db(model, [*before, last], seen, 1) > sqnr_db(model, [plain], seen, 1)


def test_without_an_outlier_nothing_is_smoothed() -> None:
    model = annotated(NORMED.replace("40.0", "1.0").replace("LayerNormalization(x, gamma)", "Relu(x)"))
    plain = QuantizeDynamic(reduce_range=REDUCE)
    assert [each.name for each in dynamic(model, data(16), plain, threads=1)] == [plain.name]


def test_static_is_never_worse_than_plain() -> None:
    model, seen = annotated(CONVOLVED), data(3, 8, 8)
    recipe = Recipe(name="r", source="m.onnx")  # type: ignore[arg-type]
    *before, last = recovered(model, recipe, seen, detect())
    assert isinstance(last, QuantizeStatic)
    last = rounded(applied(model, before), seen, last, threads=1)
    plain = replace(last, correct_bias=False, learn_rounding=False)
    assert sqnr_db(model, [*before, last], seen, 1) >= sqnr_db(model, [*before, plain], seen, 1)
    changed = clone(model)
    records = pipeline.run(changed, [*before, last])
    assert [s.applied for s in records[-1].sites] == [True, True]
    assert not records[-1].options.get("moments")  # data, no option: it stays out of the manifest


@pytest.mark.parametrize("worse", [0, 1])
def test_the_form_with_the_smaller_loss_wins_wherever_it_stands(worse: int) -> None:
    model: ir.Model = annotated(NORMED)
    forms: list[list[Pass]] = [[], []]
    forms[worse] = [QuantizeDynamic(reduce_range=True)]
    assert closest(model, forms, data(16), threads=1) == []


def test_closeness_is_that_of_the_target_s_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES, "cuda", PATH)
    Elsewhere.sessions = 0
    model, seen, plain = annotated(NORMED), data(16), QuantizeDynamic()
    closest(model, [plain, replace(plain, reduce_range=True)], seen, threads=1)
    assert Elsewhere.sessions == 0
    closest(model, [plain, replace(plain, reduce_range=True)], seen, threads=1, provider="cuda")
    assert Elsewhere.sessions == 4  # each form, and FP32 beside it


@pytest.mark.parametrize(("body", "shape"), [(NORMED, (16,)), (CONVOLVED, (3, 8, 8))])
def test_every_choice_of_int8_runs_there(body: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibration looks at FP32 alone, on the CPU, and asks for no runtime by name."""
    monkeypatch.setitem(RUNTIMES, "cuda", PATH)
    monkeypatch.delitem(RUNTIMES, "cpu")
    Elsewhere.sessions = 0
    gates = Gates(agreement=0.5)
    recipe = Recipe(name="r", source=Path("m.onnx"), calibration=data(*shape), gates=gates)
    PASSES_OF["int8"](annotated(body), recipe, replace(detect(), provider="cuda"))
    assert Elsewhere.sessions > 4


def close(sqnr_db: float, *each: float) -> Closeness:
    return Closeness(Agreement(argmax=None, cosine=1.0, sqnr_db=sqnr_db, examples=len(each)), np.array(each))


def test_a_gain_within_noise_keeps_the_form_that_was_there() -> None:
    known = close(20.0, 19.0, 20.0, 21.0, 20.0)
    assert not close(20.1, 22.0, 18.0, 22.0, 18.5).beats(known)
    assert close(20.1, 19.1, 20.12, 21.08, 20.1).beats(known)
    assert not known.beats(known)


def test_one_example_knows_no_noise() -> None:
    assert close(20.1, 20.1).beats(close(20.0, 20.0))
