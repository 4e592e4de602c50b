from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlc.contract import DataContract, Field, Labels
from dlc.data import inspect
from dlc.errors import DataError, RecipeError
from dlc.interface import Interface, TensorType
from dlc.recipe import Dataset
from dlc.sources.recipe_files import declared
from dlc.types import Array, Feeds

PIXELS = Interface((TensorType("x", "float32", ("batch", 3)),), ())
GOOD = [np.full((4, 3), 0.25, np.float32), np.full((4, 3), 0.75, np.float32)]
LABELS = np.array([0, 1] * 4)


def data(contract: DataContract, arrays: list[Array] = GOOD, labels: Array | None = LABELS) -> Dataset:
    def batches() -> list[Feeds]:
        return [{"x": array} for array in arrays]

    targets = None if labels is None else lambda: labels
    return Dataset("mine", batches, targets, contract=contract)


def promised(**given: Any) -> DataContract:
    return DataContract(id="scans", version="2", **given)


def spoiled(value: float) -> list[Array]:
    second = GOOD[1].copy()
    second[2, 1] = value
    return [GOOD[0], second]


FULL = promised(
    source="clinic", label="by two readers", sampling="every tenth", window=("2024-01-01", "2024-06-30"),
    privacy="no names", min_examples=8, targets=Labels(classes=(0, 1), least_share=0.4, most_share=0.6),
    inputs={"x": Field(dtype="float32", shape=("batch", 3), low=0.0, high=1.0)},
)  # fmt: skip


def test_data_that_keeps_its_contract_is_read_as_it_is() -> None:
    assert (
        inspect(data(FULL), PIXELS).sha256
        == inspect(Dataset("mine", lambda: [{"x": a} for a in GOOD], lambda: LABELS), PIXELS).sha256
    )


@pytest.mark.parametrize(
    ("field", "arrays", "said"),
    [
        (Field(high=1.0), spoiled(1.5), r"batch 1 breaks contract scans/2: input 'x' holds 1.5 at \[2, 1\], outside \[-inf, 1\]: 1 of 12"),  # noqa: E501
        (Field(low=0.0), spoiled(-3), r"holds -3 at \[2, 1\], outside \[0, inf\]"),
        (Field(dtype="float16"), GOOD, "batch 0 breaks contract scans/2: input 'x' is float32, promised float16"),
        (Field(shape=("batch", 4)), GOOD, r"has shape \[4, 3\], promised \['batch', 4\]"),
        (Field(shape=("batch",)), GOOD, r"has shape \[4, 3\], promised \['batch'\]"),
        (Field(missing=-1.0, low=0.0), spoiled(-1), r"misses 1 of 24 values \(4.17%\), at most 0.00% may be"),
        (Field(missing=-1.0, low=0.0, max_missing=0.1), spoiled(-2), r"holds -2 at \[2, 1\]"),
    ],
)  # fmt: skip
def test_values_that_break_it_are_located(field: Field, arrays: list[Array], said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(data(promised(inputs={"x": field}), arrays).batches())


def test_missing_values_within_the_share_are_let_be() -> None:
    held = promised(inputs={"x": Field(missing=-1.0, low=0.0, max_missing=0.05)})
    assert len(list(data(held, spoiled(-1)).batches())) == 2


def test_an_input_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="batch 0 breaks contract scans/2: it has no input 'y'"):
        list(data(promised(inputs={"y": Field()})).batches())


@pytest.mark.parametrize(
    ("labels", "given", "said"),
    [
        (Labels(classes=(0,)), LABELS, "target 1 is of class 1, which is none of"),
        (Labels(classes=(0, 1), least_share=0.3), np.array([0] * 7 + [1]), "class 1 has 12.50% of the targets"),
        (Labels(classes=(0, 1), most_share=0.8), np.array([0] * 7 + [1]), "class 0 has 87.50% of the targets"),
        (Labels(low=0.0, high=5.0), np.array([1.0, 6.0, 7.0]), r"target 1 is 6, outside \[0, 5\]: 2 of 3"),
    ],
)
def test_targets_that_break_it_are_named(labels: Labels, given: Array, said: str) -> None:
    dataset = data(promised(targets=labels), labels=given)
    assert dataset.targets is not None
    with pytest.raises(DataError, match=said):
        dataset.targets()


def test_too_few_examples_and_other_bytes_are_named() -> None:
    found = inspect(data(promised()), PIXELS).sha256
    inspect(data(promised(sha256=found)), PIXELS)
    with pytest.raises(DataError, match=f"its sha256 is {found}, not 0000"):
        inspect(data(promised(sha256="0" * 64)), PIXELS)
    with pytest.raises(DataError, match="8 examples, at least 9 are promised"):
        inspect(data(promised(min_examples=9)), PIXELS)


def test_a_copy_keeps_the_contract() -> None:
    copy = replace(data(promised(inputs={"x": Field(high=0.5)})), targets=None)
    with pytest.raises(DataError, match="breaks contract"):
        list(copy.batches())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"version": ""}, "needs an id and a version"),
        ({"sha256": "abc"}, "64 hexadecimal digits"),
        ({"window": ("2024-06-30", "2024-01-01")}, "ends on 2024-01-01, before it begins"),
        ({"window": ("June", "July")}, "the first and the last day"),
    ],
)
def test_contracts_that_are_none(given: Mapping[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        DataContract(**{"id": "scans", "version": "2", **given})


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (Field, {"low": 1.0, "high": 0.0}, "leave no value"),
        (Field, {"max_missing": 2.0}, "max_missing=2.0 is no share"),
        (Field, {"missing": float("nan")}, "missing=nan: NaN is refused in all data"),
        (Field, {"dtype": "floaty"}, "'floaty' is none of numpy's"),
        (Labels, {"low": 1.0, "high": 0.0}, "the bounds of the targets"),
        (Labels, {"classes": (0,), "least_share": 0.9, "most_share": 0.1}, "in order"),
        (Labels, {"least_share": 0.1}, "state those that may occur"),
    ],
)
def test_promises_that_are_none(kind: type, given: Mapping[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        kind(**given)


TOML = """
[evaluation]
file = "data.npz"
targets = "y"
[evaluation.contract]
id = "scans"
version = "2"
window = ["2024-01-01", "2024-06-30"]
inputs.x = { dtype = "float32", shape = ["batch", 3], low = 0.0, high = 1.0 }
targets = { classes = [0, 1], least_share = 0.4 }
"""


def stated(tmp_path: Path, text: str) -> Dataset:
    np.savez(tmp_path / "data.npz", x=np.concatenate(GOOD), y=LABELS)
    (tmp_path / "recipe.toml").write_text(text)
    found = declared(str(tmp_path / "recipe.toml"), Path("model.onnx")).evaluation
    assert found is not None
    return found


def test_a_contract_in_toml(tmp_path: Path) -> None:
    contract = stated(tmp_path, TOML).contract
    assert contract is not None
    assert contract.window == ("2024-01-01", "2024-06-30")
    assert contract.inputs["x"] == Field(dtype="float32", shape=("batch", 3), low=0.0, high=1.0)
    assert contract.targets == Labels(classes=(0, 1), least_share=0.4)


def test_a_contract_in_toml_is_kept(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data set 'data', batch 0 breaks contract scans/2"):
        list(stated(tmp_path, TOML.replace("high = 1.0", "high = 0.5")).batches())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("version", "vresion", "unknown key 'vresion' in evaluation.contract; did you mean 'version'"),
        ("high", "hihg", "unknown key 'hihg' in evaluation.contract.inputs; did you mean 'high'"),
        ("least_share", "lest_share", "in evaluation.contract.targets; did you mean 'least_share'"),
        ("2024-06-30", "2023-06-30", r"recipe\.toml: contract scans/2: the window ends"),
    ],
)
def test_contracts_in_toml_that_are_wrong(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        stated(tmp_path, TOML.replace(old, new))
