"""dlc.toml: strict keys, the nearest file, and what contradicts itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlc.config import find, read
from dlc.errors import RecipeError
from dlc.gate.settings import limits_of
from dlc.recipe import Gates, Recipe

FULL = """
[gates]
max_slowdown = 1.1
[targets.server]
threads = 2
[models.digits]
recipe = "recipe.toml"
baseline = "baselines/digits.json"
variants = ["int8"]
target = "server"
dims = { batch = 16 }
gates = { retention = 0.98, max_latency_ratio = 0.6, objective = "throughput", concurrency = 2 }
"""


def write(folder: Path, text: str, name: str = "dlc.toml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_everything_that_may_be_stated(tmp_path: Path) -> None:
    config = read(write(tmp_path, FULL))
    model = config.model("digits")
    assert (model.variants, dict(model.dims)) == (("int8",), {"batch": 16})
    assert config.at(model.baseline) == tmp_path / "baselines" / "digits.json"
    target = config.target("digits")
    assert target is not None
    assert target.threads == 2
    assert config.target("other") is None


def test_the_nearest_file_upwards(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert find(start=inner).path is None
    write(tmp_path, "[tool.dlc.gates]\nmax_growth = 1.5\n", "pyproject.toml")
    assert find(start=inner).document.gates.max_growth == 1.5
    write(tmp_path / "a", "[tool.other]\n", "pyproject.toml")  # says nothing of dlc
    assert find(start=inner).document.gates.max_growth == 1.5
    write(tmp_path / "a", "[gates]\nmax_growth = 1.2\n")
    assert find(start=inner).document.gates.max_growth == 1.2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[gatez]", "unknown key 'gatez'; did you mean 'gates'?"),
        ("[gates]\nretenton = 0.9", "unknown key 'retenton' in gates; did you mean 'retention'?"),
        ("[models.a]\nrecipes = 'x'", "unknown key 'recipes' in .*; did you mean 'recipe'?"),
        ("[models.a.gates]\nmaxdrop = 1", "unknown key 'maxdrop' in .*; did you mean 'max_drop'?"),
        ("[targets.a]\nthread = 1", "unknown key 'thread' in .*; did you mean 'threads'?"),
        ("[gates]\nretention = 'high'", "retention"),
        ("[models.a]\nvariants = ['int9']", "unknown variant 'int9'; did you mean 'int8'?"),
        ("[models.a]\nvariants = []", "variants is empty"),
        ("[models.a]\ntarget = 'x'", "no target is called 'x'"),
        ("[targets.a]\nfile = 'x.json'\nthreads = 1", "leave one of the two out"),
        ("[gates]\nretention = 0.9\nmax_drop = 1.0", "gates: retention and max_drop contradict each other"),
        ("[gates]\nslice_retention = 0.9\nslice_drop = 1.0", "slice_retention and slice_drop contradict each other"),
        ("[models.a.gates]\nretention = 0.9\nmax_drop = 1.0", "model 'a': retention and max_drop contradict"),
        ("[gates", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        read(write(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none.toml: No such file"):
        find(tmp_path / "none.toml")


def recipe(**gates: float) -> Recipe:
    return Recipe(name="digits", source=Path("model.onnx"), gates=Gates(**gates))


def test_stated_gates_come_before_the_recipe_s() -> None:
    limits = limits_of(recipe(retention=0.9, max_size_ratio=0.5), {"retention": 0.98, "max_slowdown": 1.2})
    assert (limits.recipe.retention, limits.recipe.max_size_ratio, limits.max_slowdown) == (0.98, 0.5, 1.2)
    assert limits.margin(50.0) == pytest.approx(1.0)
    assert limits_of(None, {}).recipe == Gates()


def test_a_share_takes_the_place_of_a_distance_and_the_other_way_round() -> None:
    assert limits_of(recipe(max_drop=0.3), {"retention": 0.98}).margin(50.0) == pytest.approx(1.0)
    assert limits_of(recipe(), {"max_drop": 0.3}).margin(50.0) == 0.3
    both = {"retention": 0.98, "max_drop": 0.3}  # of all models, and of this one
    assert limits_of(recipe(), both, {"max_drop": 0.3}).margin(50.0) == 0.3
    assert limits_of(recipe(), both, {"retention": 0.98}).margin(50.0) == pytest.approx(1.0)


def test_gates_that_make_no_sense_are_refused() -> None:
    assert limits_of(recipe(slice_drop=0.3), {"slice_retention": 0.98}).slice_margin(50.0) == pytest.approx(1.0)
    assert limits_of(recipe(slice_drop=0.3), {"retention": 0.98}).slice_margin(50.0) == 0.3
    with pytest.raises(RecipeError, match=r"retention=1\.5 is no share"):
        limits_of(recipe(), {"retention": 1.5})
    with pytest.raises(RecipeError, match="contradict each other"):
        limits_of(recipe(), {"concurrency": 2})


def test_a_model_whose_name_may_be_misspelt_is_noted(tmp_path: Path) -> None:
    config = read(write(tmp_path, FULL))
    assert config.overlooks("digits") is None
    assert (
        config.overlooks("digts") == f"{tmp_path / 'dlc.toml'} states nothing of model 'digts'; did you mean 'digits'?"
    )
    assert read(write(tmp_path, "[gates]\nmax_slowdown = 1.1\n")).overlooks("digts") is None
    assert find(start=Path("/")).overlooks("digits") is None
