"""Everything that may stand after ``dlc compile``, right and wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dlc.errors import DataError, DlcError, RecipeError
from dlc.export import export
from dlc.harness.accuracy import METRICS
from dlc.interface import Interface
from dlc.models import ZOO
from dlc.quantization import Int8
from dlc.recipe import Dim, Gates, Input
from dlc.sources.recipe_files import load_recipe

PYTHON = """
import torch
from dlc import Recipe
from dlc.recipe import Dim, Input

def module():
    return torch.nn.Sequential(torch.nn.Linear(4, 2)).eval()

def recipe():
    return Recipe(name="mine", source=module, inputs={"input": Input("float32", ("n", 4))}, dims={"n": Dim(1, 8)})
"""


@pytest.fixture(autouse=True)
def clean_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def why(spec: str, overrides: Path | None = None, kind: type[DlcError] = RecipeError) -> str:
    with pytest.raises(kind) as caught:
        load_recipe(spec, overrides)
    return str(caught.value)


@pytest.mark.parametrize("name", ["digits-cnn", "digits-mlp"])
def test_zoo(name: str) -> None:
    assert load_recipe(name).name == name


def test_every_name_of_the_zoo_is_there() -> None:
    assert sorted(ZOO) == [
        "digits-cnn", "digits-mlp", "efficientnet-lite0", "fracast", "minilm", "resemblyzer", "silero-vad",
        "smollm2",
    ]  # fmt: skip


def test_unknown_name() -> None:
    assert why("digits-cmn") == (
        "no source is called 'digits-cmn'; did you mean 'digits-cnn'?; expected a zoo name, recipe.py, recipe.toml, "
        "model.onnx, model.pt2 or package.module:factory"
    )


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    assert "not a source that dlc knows" in why(write(tmp_path, "weights.bin", ""))


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_model_files_are_named_after_themselves(suffix: str) -> None:
    recipe = load_recipe(f"some/my model!.{suffix}")
    assert (recipe.name, recipe.source) == ("my-model-", Path(f"some/my model!.{suffix}"))


def test_python_function(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "r.py", PYTHON))
    assert recipe.name == "mine"
    exported = export(recipe, opset=20, ir_version=10)
    assert str(Interface.of(exported.model).inputs[0]) == "input: float32[n,4]"


def test_python_value_with_a_path_relative_to_the_file(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "r.py", "from dlc import Recipe\nrecipe = Recipe(name='m', source='m.onnx')"))
    assert recipe.source == tmp_path / "m.onnx"


def test_python_may_import_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, "neighbour_of_recipe.py", "NAME = 'm'")
    text = "from neighbour_of_recipe import NAME\nfrom dlc import Recipe\nrecipe = Recipe(name=NAME, source='m.onnx')"
    assert load_recipe(write(tmp_path, "r.py", text)).name == "m"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import", "r.py:1: invalid syntax"),
        ("x = 1\nx / 0", "r.py:2: ZeroDivisionError: division by zero"),
        ("import no_such_package", "r.py:1: ModuleNotFoundError: No module named 'no_such_package'"),
        ("raise SystemExit(3)", "r.py:1: SystemExit: 3"),
        ("x = 1", "r.py defines no 'recipe'"),
        ("recipe = 3", "r.py: 'recipe' gives int, not a Recipe"),
        ("def recipe():\n    return [][1]", "r.py:2: IndexError: list index out of range"),
        ("def recipe(x):\n    return x", "r.py: TypeError: recipe() missing 1 required positional argument"),
        (
            "recipe = Recipe(name='m', source='m.onnx', calibation=1)",
            "r.py:1: Recipe has no 'calibation'; did you mean",
        ),
        (
            "recipe = Recipe(name='m', source='m.onnx', gates=Gates(retension=1))",
            "Gates has no 'retension'; did you mean",
        ),
        (
            "recipe = Recipe(name='m', source='m.onnx', variants=('int9',))",
            "r.py:1: unknown variant 'int9'; did you mean",
        ),
        ("recipe = Recipe(name='m', source=3)", "r.py: source must be a path or a function"),
        ("recipe = Recipe(name='m', source='m.onnx', dims={'n': 8})", "r.py: dims['n'] is int, expected Dim"),
        ("recipe = Recipe(name='m', source='m.onnx', evaluation=[])", "r.py: evaluation is list, expected Dataset"),
    ],
)
def test_python_that_is_wrong_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    header = "from dlc.recipe import Gates, Recipe; " if "Recipe(" in text else ""
    assert message in why(write(tmp_path, "r.py", header + text))


def test_python_file_that_is_missing(tmp_path: Path) -> None:
    assert why(str(tmp_path / "r.py")).endswith("r.py: no such file")


FACTORIES = """
import torch
from dlc import Recipe

class Add(torch.nn.Module):
    def forward(self, a, b):
        return a + b

def as_tuple():
    return Add(), (torch.ones(2, 3), torch.ones(2, 3))

def as_dict():
    return Add(), {"b": torch.tensor([4, 7]), "a": torch.tensor([0, 1])}

def alone():
    return Add()

def declared():
    return Recipe(name="declared", source="m.onnx")

def number():
    return 7

def wrong_examples():
    return Add(), ("a", "b")

def fails():
    raise ValueError("no weights")
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"factories_{abs(hash(tmp_path)):x}"
    write(tmp_path, f"{name}.py", FACTORIES)
    monkeypatch.chdir(tmp_path)
    return name


def test_factories(factories: str, tmp_path: Path) -> None:
    made = load_recipe(f"{factories}:as_tuple")
    assert made.inputs == {"a": Input("float32", (2, 3)), "b": Input("float32", (2, 3))}
    assert made.name == f"{factories}-as_tuple"
    assert load_recipe(f"{factories}:as_dict").inputs == {
        "b": Input("int64", (2,), 4.0, 8.0), "a": Input("int64", (2,), 0.0, 2.0)
    }  # fmt: skip
    assert load_recipe(f"{factories}:declared").source == tmp_path / "m.onnx"


def test_a_module_alone_takes_its_inputs_from_toml(factories: str, tmp_path: Path) -> None:
    assert "returned a module without inputs" in why(f"{factories}:alone")
    toml = (
        'dims.n = {}\ninputs.a = { dtype = "float32", shape = ["n"] }\ninputs.b = { dtype = "float32", shape = ["n"] }'
    )
    recipe = load_recipe(f"{factories}:alone", Path(write(tmp_path, "r.toml", toml)))
    assert list(recipe.inputs) == ["a", "b"]
    assert isinstance(recipe.source(), torch.nn.Module)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("as_tupel", "has no 'as_tupel'; did you mean 'as_tuple'?"),
        ("number", "returned int; expected a Recipe, or (module, example_inputs)"),
        ("wrong_examples", "example inputs must be tensors or arrays"),
        ("fails", ":28: ValueError: no weights"),
    ],
)
def test_factories_that_are_wrong(factories: str, attribute: str, message: str) -> None:
    assert message in why(f"{factories}:{attribute}")


def test_a_module_that_is_missing() -> None:
    assert "No module named 'no_such_package'" in why("no_such_package.models:build")


TOML = """
name = "scans"
source = "model.onnx"
outputs = ["scores"]
variants = ["fp32"]
metric = "top1"
notes = ["a note"]
dims.batch = { min = 1, max = 16, typical = 4 }
inputs.image = { dtype = "float32", shape = ["batch", 2], low = 0, high = 1.0 }
calibration = { file = "calibration.npz" }
evaluation = { file = "evaluation.npz", targets = "labels", batch = 2, name = "held out" }
gates = { retention = 0.98, max_size_ratio = 0.5 }
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    images = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.savez(tmp_path / "calibration.npz", image=images)
    np.savez(tmp_path / "evaluation.npz", image=images, labels=np.array([1, 0, 1]))
    return tmp_path


def test_toml(data: Path) -> None:
    recipe = load_recipe(write(data, "r.toml", TOML))
    assert (recipe.name, recipe.source, recipe.outputs) == ("scans", data / "model.onnx", ("scores",))
    assert recipe.dims == {"batch": Dim(1, 16, 4)}
    assert recipe.inputs == {"image": Input("float32", ("batch", 2), 0.0, 1.0)}
    assert recipe.metric is METRICS["top1"]
    assert recipe.gates == Gates(retention=0.98, max_size_ratio=0.5)
    assert recipe.notes == ("a note",)
    held_out = recipe.evaluation
    assert held_out is not None
    assert held_out.targets is not None
    assert (held_out.name, held_out.source) == ("held out", "evaluation.npz")
    for _ in range(2):  # batches come again, the same
        assert [sorted(b) for b in held_out.batches()] == [["image"], ["image"]]
        assert [len(b["image"]) for b in held_out.batches()] == [2, 1]
    assert held_out.targets().tolist() == [1, 0, 1]
    assert recipe.calibration is not None
    assert recipe.calibration.targets is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("calibration =", "calibation =", "unknown key 'calibation'; did you mean 'calibration'?"),
        ("typical =", "typicle =", "unknown key 'typicle' in dims; did you mean 'typical'?"),
        ("retention =", "retension =", "unknown key 'retension' in gates; did you mean 'retention'?"),
        ("gates = { ", "gates = { max_drop = 0.3, ", "retention and max_drop contradict each other"),
        (
            "gates = { ",
            "gates = { slice_retention = 0.9, slice_drop = 0.3, ",
            "slice_retention and slice_drop contradict each other",
        ),
        ("dtype =", "type =", "unknown key 'type' in inputs"),
        ('metric = "top1"', 'metric = "topp1"', "unknown metric 'topp1'; did you mean 'top1'?"),
        ('"fp32"', '"fp31"', "Invalid enum value 'fp31'"),
        ('["batch", 2]', '["bach", 2]', "dims does not declare; did you mean 'batch'?"),
        ("min = 1,", "min = 99,", "a dimension needs 1 <= min <= max"),
        ("batch = 2", "batch = 0", "batch=0; a batch needs at least one example"),
        ('targets = "labels"', 'targets = "label"', "evaluation.npz has no array 'label'; did you mean 'labels'?"),
        ('name = "scans"', 'invariants = ["visible"]', "unknown invariant 'visible'; did you mean 'some-key-visible'?"),
        ('name = "scans"', 'invariants = "some-key-visible"', "Expected `array | null`, got `str`"),
        ('name = "scans"', "name = ", "is not TOML"),
        ('source = "model.onnx"', "", "has no source"),
        ('"model.onnx"', '"other.toml"', "the source is a recipe itself"),
    ],
)
def test_toml_that_is_wrong(data: Path, old: str, new: str, message: str) -> None:
    assert message in why(write(data, "r.toml", TOML.replace(old, new)))


def test_a_distance_alone_contradicts_no_default(data: Path) -> None:
    recipe = load_recipe(write(data, "r.toml", TOML.replace("retention = 0.98", "max_drop = 0.3, slice_drop = 1.0")))
    assert recipe.gates == Gates(max_drop=0.3, slice_drop=1.0, max_size_ratio=0.5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (None, "No such file"),
        ({}, "is not an .npz file with arrays"),
        ({"image": np.ones((3, 2)), "labels": np.ones(2)}, "the same number; found image: [3, 2], labels: [2]"),
        ({"image": np.float32(1), "labels": np.float32(1)}, "need one row per example"),
        ({"image": np.array([{}], dtype=object), "labels": np.ones(1)}, "not an .npz file"),
    ],
)
def test_data_that_is_wrong(
    data: Path, arrays: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]] | None, message: str
) -> None:
    (data / "evaluation.npz").unlink()
    if arrays is not None:
        np.savez(data / "evaluation.npz", **arrays)  # type: ignore[arg-type]
    assert message in why(write(data, "r.toml", TOML), kind=DataError)


def test_data_of_another_kind(data: Path) -> None:
    (data / "evaluation.npz").write_text("label,image\n1,2\n")
    assert "evaluation.npz" in why(write(data, "r.toml", TOML), kind=DataError)


def test_one_array_without_a_name(data: Path) -> None:
    with (data / "evaluation.npz").open("wb") as file:
        np.save(file, np.ones((3, 2)))
    assert "not an .npz file with arrays; write it with numpy.savez" in why(write(data, "r.toml", TOML), kind=DataError)


def test_overrides_accompany_a_bare_model(data: Path) -> None:
    path = Path(write(data, "r.toml", TOML.replace('source = "model.onnx"', "")))
    recipe = load_recipe("elsewhere/net.onnx", path)
    assert (recipe.name, recipe.source) == ("scans", Path("elsewhere/net.onnx"))
    two = Path(write(data, "two.toml", TOML))
    assert "has a source of its own, 'model.onnx': leave one of the two out" in why("elsewhere/net.onnx", two)
    assert "No such file" in why("elsewhere/net.onnx", data / "none.toml")


def test_overrides_change_only_what_they_name(tmp_path: Path) -> None:
    given = 'variants = ["fp16"]\nint8 = "weights"\ninvariants = ["some-key-visible"]'
    recipe = load_recipe("digits-mlp", Path(write(tmp_path, "r.toml", given)))
    assert (recipe.variants, recipe.int8, recipe.invariants) == (("fp16",), Int8(form="weights"), ("some-key-visible",))
    assert recipe.metric is METRICS["top1"]
