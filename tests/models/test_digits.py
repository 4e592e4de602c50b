from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dlc.errors import CapabilityError, UserError
from dlc.export import export
from dlc.harness.accuracy import evaluate
from dlc.models import digits, digits_cnn, digits_mlp, train
from dlc.recipe import PRECISIONS, Recipe
from dlc.runtimes.ort_cpu import OrtCpuRunner

RECIPES = {"digits-cnn": digits_cnn.recipe, "digits-mlp": digits_mlp.recipe}
LEAST = {"digits-cnn": 97.0, "digits-mlp": 96.0}
"""Held-out accuracy in percent that training must reach on any machine, whatever its rounding."""
SIZE_LIMIT = 300_000


@pytest.fixture(params=sorted(RECIPES))
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return RECIPES[request.param]()


def test_the_split_is_a_stratified_third() -> None:
    split = digits.load()
    assert (len(split.train.labels), len(split.held_out.labels)) == (1198, 599)
    counts = np.stack([np.bincount(part.labels) for part in (split.train, split.held_out)])
    assert (np.abs(counts[0] - 2 * counts[1]) <= 2).all()
    assert split.train.images.dtype == np.float32
    assert (split.train.images.min(), split.train.images.max()) == (0.0, 1.0)


def test_nothing_held_out_was_trained_or_calibrated_on() -> None:
    split = digits.load()
    held_out = {image.tobytes() for image in split.held_out.images}
    assert not held_out & {image.tobytes() for image in split.train.images}
    calibration = [image.tobytes() for feeds in digits.calibration().batches() for image in feeds["image"]]
    assert len(set(calibration)) == digits.CALIBRATION
    assert set(calibration) <= {image.tobytes() for image in split.train.images}


def test_calibration_is_the_same_each_time() -> None:
    first, second = ([f["image"].tobytes() for f in digits.calibration().batches()] for _ in range(2))
    assert first == second


def test_exported_model_reaches_its_accuracy(recipe: Recipe) -> None:
    assert recipe.evaluation is not None
    assert recipe.metric is not None
    assert (*recipe.variants, "mixed") == PRECISIONS  # a search is asked for by name
    model = export(recipe, opset=20, ir_version=10).model
    with OrtCpuRunner(model) as runner:
        rows = evaluate({"ort": runner}, recipe.evaluation, reference="ort", metric=recipe.metric)["ort"].rows
    assert rows is not None
    assert recipe.metric.statistic(rows) >= LEAST[recipe.name]


def test_graphs_exercise_the_passes() -> None:
    ops = {
        name: {n.op_type for n in export(make(), opset=20, ir_version=10).model.graph} for name, make in RECIPES.items()
    }
    assert {"Conv", "BatchNormalization", "Relu", "Add", "MaxPool", "ReduceMean", "Gemm"} <= ops["digits-cnn"]
    assert {"Gemm", "Relu", "Add", "LayerNormalization", "Gelu"} <= ops["digits-mlp"]


def test_weights_are_small(recipe: Recipe) -> None:
    assert (train.WEIGHTS / f"{recipe.name}.safetensors").stat().st_size < SIZE_LIMIT


def test_importing_recipes_loads_neither_torch_nor_sklearn() -> None:
    code = (
        "import sys; from dlc.models import digits_cnn, digits_mlp; digits_cnn.recipe(); digits_mlp.recipe();"
        "print([m for m in ('torch', 'sklearn', 'scipy.stats') if m in sys.modules])"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"


def test_without_torch_the_command_is_given(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # the import system's own mark for a module that cannot be imported
    assert callable(recipe.source)
    with pytest.raises(CapabilityError, match=r"pip install 'dlc\[torch\]'"):
        recipe.source()


def test_without_sklearn_the_command_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    digits.load.cache_clear()
    with pytest.raises(CapabilityError, match="pip install scikit-learn"):
        list(digits.evaluation().batches())


def test_training_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setitem(train.SCHEDULES, "digits-cnn", train.Schedule(epochs=1, rate=4e-3, decay=2e-2, shift=1))
    told: list[tuple[int, int]] = []
    once = train.train("digits-cnn", progress=lambda done, of: told.append((done, of)))
    torch.rand(3)  # the caller's random state must not matter
    again, other = train.train("digits-cnn"), train.train("digits-cnn", seed=1)
    assert told == [(1, 1)]
    assert once.accuracy == again.accuracy
    assert once.weights.keys() == again.weights.keys()
    assert all(np.array_equal(once.weights[k], again.weights[k]) for k in once.weights)
    assert not np.array_equal(once.weights["0.weight"], other.weights["0.weight"])


def test_training_leaves_torch_as_it_was() -> None:
    import torch

    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="stop"), train._deterministic(0):
            raise RuntimeError("stop")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_training_reproduces_the_perceptron(tmp_path: Path) -> None:
    result = train.train("digits-mlp")
    assert result.accuracy >= LEAST["digits-mlp"]
    saved = train.save("digits-mlp", result.weights, tmp_path)
    shipped = train.WEIGHTS / saved.name
    # the bytes depend on the CPU's kernels; wherever the weights are the same, so is the file
    assert train.reproduces("digits-mlp", result.weights) == (saved.read_bytes() == shipped.read_bytes())


@pytest.mark.slow
def test_training_reproduces_the_cnn() -> None:
    result = train.train("digits-cnn")
    assert result.accuracy >= LEAST["digits-cnn"]
    assert result.seconds < 60


def test_reproduces_sees_one_bit() -> None:
    weights = train.load("digits-mlp")
    assert train.reproduces("digits-mlp", weights)
    name = next(iter(weights))
    weights[name] = np.nextafter(weights[name], np.float32(9))
    assert not train.reproduces("digits-mlp", weights)
    del weights[name]
    assert not train.reproduces("digits-mlp", weights)


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(UserError, match="'digits-cn' is not trained by dlc; did you mean 'digits-cnn'"):
        train.train("digits-cn")
