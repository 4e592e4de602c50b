"""A running sum as the smallest stateful model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import dlc
from dlc import Dim, Recipe
from dlc.data import inspect
from dlc.errors import DataError, RecipeError
from dlc.harness.accuracy import METRICS, evaluate
from dlc.harness.sequences import check_state, run
from dlc.interface import Interface
from dlc.recipe import Dataset
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.stages.record import ONE_STEP, check_data
from dlc.target import detect
from dlc.types import Array, Feeds

SUM = """<ir_version: 10, opset_import: ["" : 20]>
g (float[b, 2] x, float[b, 2] total) => (float[b, 2] y, float[b, 2] next) <float[1] gain = {1.0}> {
    added = Add (x, total)
    next = Mul (added, gain)
    y = Neg (next)
}"""
STATE = {"total": "next"}
X = np.arange(6, dtype=np.float32).reshape(3, 1, 2)
FEEDS: Feeds = {"x": X, "total": np.ones((1, 2), np.float32)}


def test_state_is_fed_back() -> None:
    with OrtCpuRunner(ir.from_onnx_text(SUM)) as runner:
        outputs = run(runner, FEEDS, STATE)
        alone = run(runner, {"x": X[0], "total": FEEDS["total"]}, {})
    assert np.array_equal(outputs["y"], -(1 + X.cumsum(axis=0)))
    assert np.array_equal(outputs["next"], 1 + X.sum(axis=0))
    assert np.array_equal(alone["y"], -(1 + X[0]))


@pytest.mark.parametrize("x", [np.zeros((0, 1, 2), np.float32), np.float32(1)], ids=["no step", "no axis"])
def test_a_sequence_needs_steps(x: Array) -> None:
    with OrtCpuRunner(ir.from_onnx_text(SUM)) as runner, pytest.raises(DataError, match="number of steps"):
        run(runner, {"x": np.asarray(x), "total": FEEDS["total"]}, STATE)


def test_errors_add_up_over_a_sequence() -> None:
    """A gain of 2 doubles each state: seen only if a variant is fed its own."""
    data = Dataset("sums", lambda: [FEEDS], targets=lambda: np.zeros((3, 2)))
    with (
        OrtCpuRunner(ir.from_onnx_text(SUM)) as a,
        OrtCpuRunner(ir.from_onnx_text(SUM.replace("{1.0}", "{2.0}"))) as b,
    ):
        found = evaluate(
            {"a": a, "b": b}, data, reference="a", metric=METRICS["mae"], state=STATE,
            prediction=lambda _, outputs: outputs["y"][:, 0],
        )  # fmt: skip
    exact, doubled = found["a"].rows, found["b"].rows
    assert exact is not None
    assert doubled is not None
    assert exact.ravel().tolist() == [1.5, 4.0, 8.5]
    assert doubled.ravel().tolist() == [3.0, 11.0, 31.0]


def test_agreement_is_that_of_whole_sequences() -> None:
    """Sums of one element each: step by step they all point the same way."""
    text = SUM.replace("[b, 2]", "[b, 1]")
    data = Dataset("sums", lambda: [{"x": X[..., :1], "total": np.ones((1, 1), np.float32)}] * 2)
    with (
        OrtCpuRunner(ir.from_onnx_text(text)) as a,
        OrtCpuRunner(ir.from_onnx_text(text.replace("{1.0}", "{2.0}"))) as b,
    ):
        found = evaluate({"a": a, "b": b}, data, reference="a", state=STATE)["b"].agreement
    assert found is not None
    exact, doubled = np.array([1.0, 3, 7]), np.array([2.0, 8, 24])
    cosine = exact @ doubled / np.linalg.norm(exact) / np.linalg.norm(doubled)
    assert found.examples == 2
    assert found.cosine == pytest.approx(cosine)


def test_data_of_sequences_is_checked_step_by_step() -> None:
    interface = Interface.of(ir.from_onnx_text(SUM))
    good = Dataset("sums", lambda: [FEEDS], targets=lambda: np.zeros(3))
    assert inspect(good, interface, STATE).examples == 3
    with pytest.raises(DataError, match="batch 0"):
        inspect(good, interface)
    bad = replace(good, batches=lambda: [{**FEEDS, "x": X[..., :1]}])
    with pytest.raises(DataError, match="batch 0"):
        inspect(bad, interface, STATE)


INTERFACE = Interface.of(ir.from_onnx_text(SUM))


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"totl": "next"}, "'totl' is no input of the model; did you mean 'total'"),
        ({"total": "nxt"}, "'nxt', which is no output; did you mean 'next'"),
    ],
)
def test_state_names_an_input_and_an_output(state: dict[str, str], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        check_state(state, INTERFACE)


@pytest.mark.parametrize(
    "fed", ["float[b, 3] next", "float[2] next", "float16[b, 2] next"], ids=["extent", "rank", "dtype"]
)
def test_state_is_fed_as_it_is(fed: str) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
    g (float[b, 2] total, {fed.replace("next", "x")}) => ({fed}) {{ next = Identity (x) }}"""
    with pytest.raises(RecipeError, match="dtype and shape must be the same"):
        check_state(STATE, Interface.of(ir.from_onnx_text(text)))


def test_dynamic_extents_fit() -> None:
    text = SUM.replace("float[b, 2] next", "float[c, d] next")
    check_state(STATE, Interface.of(ir.from_onnx_text(text)))


def test_a_recipe_with_state_says_what_is_not_judged_over_sequences() -> None:
    recipe = Recipe(name="sums", source="sums.onnx", state=STATE)  # type: ignore[arg-type]
    assert check_data(recipe, INTERFACE, evaluating=True).warnings == (ONE_STEP,)
    judged = replace(recipe, evaluation=Dataset("sums", lambda: [FEEDS]))
    assert check_data(judged, INTERFACE, evaluating=True).warnings == ()
    with pytest.raises(RecipeError, match="no output"):
        check_data(replace(judged, state={"total": "sum"}), INTERFACE, evaluating=True)


def test_a_batch_without_steps_is_named() -> None:
    data = Dataset("sums", lambda: [FEEDS, {**FEEDS, "x": X[:0]}])
    with pytest.raises(DataError, match="'sums', batch 1: a sequence needs"):
        inspect(data, INTERFACE, STATE)


def test_a_compile_judges_over_sequences(tmp_path: Path) -> None:
    file = tmp_path / "sums.onnx"
    file.write_bytes(ir.to_proto(ir.from_onnx_text(SUM)).SerializeToString())
    recipe = Recipe(
        name="sums", source=file, dims={"b": Dim(1, 4)}, state=STATE, metric=METRICS["mae"],
        evaluation=Dataset("sums", lambda: [FEEDS], targets=lambda: np.zeros((3, 2))),
        prediction=lambda _, outputs: outputs["y"][:, 0], variants=("fp32",),
    )  # fmt: skip
    (record,) = dlc.compile(recipe, detect(), tmp_path / "build").artifact.manifest.variants
    assert record.accuracy is not None
    assert record.accuracy.value.value == pytest.approx(np.mean([1.5, 4, 8.5]))
    assert record.agreement is not None
    assert record.agreement.examples == 1
