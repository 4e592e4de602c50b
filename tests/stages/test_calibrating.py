"""From calibration data to static int8: which ranges, and what is said about them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from dlc.calibrate import Calibrated, Range
from dlc.calibration import Calibration
from dlc.data import DataSummary
from dlc.passes.base import clone
from dlc.recipe import Dataset, Recipe
from dlc.stages.calibrating import FEW, remarks, static_int8, too_few, watched
from dlc.stages.recovering import closest
from dlc.target import Target
from tests.passes.texts import compute

TEXT = """<ir_version: 10, opset_import: ["": 20]>
g (float[b, 1, 8, 8] x) => (float[b, 1, 8, 8] y) <float[1, 1, 1, 1] w = {0.37}> { y = Conv (x, w) }"""
IMAGES = np.random.default_rng(0).uniform(-1, 1, size=(40, 1, 8, 8)).astype(np.float32)
IMAGES[0, 0, 0, 0] = 300.0  # all that minmax sees
DATA = Dataset("images", lambda: [{"x": IMAGES[:20]}, {"x": IMAGES[20:]}])


VNNI = Target("cpu", "x86_64", ("avx2", "avx512_vnni"), 1, "onnxruntime 1.32", 26, 13)


class Heard:
    """Writes down what progress is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def stage(self, name: str, steps: int | None = None) -> None:
        self.said.append(f"{name}/{steps}")

    def advance(self) -> None:
        self.said.append("+")


def test_each_run_over_the_data_is_shown() -> None:
    heard = Heard()
    shown = watched(Recipe(name="r", source="m.onnx", calibration=DATA), 2, heard)  # type: ignore[arg-type]
    assert shown.calibration is not None
    assert len(list(shown.calibration.batches())) == 2
    assert heard.said == ["run images/2", "+", "+", "build/None"]


def test_without_data_there_is_nothing_to_show() -> None:
    recipe = Recipe(name="r", source="m.onnx")  # type: ignore[arg-type]
    assert watched(recipe, 0, Heard()) is recipe


def test_best_is_the_method_that_agrees_most_on_the_calibration_data() -> None:
    model = ir.from_onnx_text(TEXT)

    def made(method: str) -> float:
        options = Calibration(method=method)  # type: ignore[arg-type]
        recipe = Recipe(name="r", source="m.onnx", calibrate=options)  # type: ignore[arg-type]
        quantize = static_int8(model, recipe, DATA, VNNI)
        methods.append(quantize.method)
        quantize(changed := clone(model))
        return float(((compute(changed, {"x": IMAGES})["y"] - compute(model, {"x": IMAGES})["y"]) ** 2).sum())

    methods: list[str] = []
    best, *others = [made(method) for method in ("best", "mse", "minmax", "percentile", "entropy")]
    assert best == min(others)
    assert methods[0] == methods[1 + others.index(best)]


def test_the_first_of_equal_forms_is_taken() -> None:
    model, recipe = ir.from_onnx_text(TEXT), Recipe(name="r", source="m.onnx")  # type: ignore[arg-type]
    form = static_int8(model, recipe, DATA, VNNI)
    assert closest(model, [form, form], DATA, threads=1) is form


def test_what_is_said_of_a_calibration() -> None:
    plain = Calibrated({"mse": {"h": Range(0, 1)}}, {}, {}, 1)
    assert remarks(plain) == ()
    several, constant = remarks(Calibrated({}, {}, dict.fromkeys("abcde", 0.5), 3))
    assert several == "calibrated in 3 runs over the data, to stay within max_ram"
    assert constant.startswith("never changes on the calibration data: a = 0.5, b = 0.5, c = 0.5 and 2 more;")


@pytest.mark.parametrize(("examples", "warned"), [(1, True), (FEW - 1, True), (FEW, False)])
def test_too_few_examples(examples: int, *, warned: bool) -> None:
    assert (too_few(DataSummary(examples, 1, "", ())) is not None) == warned
