"""What was measured is there again, also after an interruption in the middle of a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc.journal import Evaluation, Journal, Sensitivity, key
from dlc.manifest import Estimate
from dlc.search import Measured

ONE = Estimate(value=1.0, low=0.9, high=1.0)
FOUND = Measured(ms=3.0, ratio=ONE, kept=ONE, bytes=8, seconds=0.5)
ENTRIES: list[Sensitivity | Evaluation] = [
    Sensitivity(unit="a", loss=1e-5),
    Sensitivity(unit="b", loss=None),
    Evaluation(mix=("a",), measured=FOUND),
]


def written(file: Path) -> Journal:
    journal = Journal(file)
    for entry in ENTRIES:
        journal.add(entry)
    return journal


def test_entries_are_read_again(tmp_path: Path) -> None:
    first = written(tmp_path / "new" / "j.jsonl")
    again = Journal(first.file)
    assert (again.losses, again.measured) == (first.losses, first.measured)
    assert again.losses == {"a": 1e-5, "b": None}
    assert again.measured == {frozenset(["a"]): FOUND}


def test_a_line_that_was_cut_off_is_passed_over_and_the_next_one_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "j.jsonl"
    written(file)
    file.write_bytes(file.read_bytes()[:-20])
    again = Journal(file)
    assert again.measured == {}
    again.add(ENTRIES[-1])
    assert Journal(file).measured == {frozenset(["a"]): FOUND}


def test_without_a_file_nothing_is_kept() -> None:
    journal = Journal()
    journal.add(ENTRIES[0])
    assert journal.losses == {"a": 1e-5}


def model(weight: float = 1.0, name: str = "node") -> ir.Model:
    made = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 20]> g (float[n] x) => (float[n] y) <float[1] w = {1.0}> { y = Mul(x, w) }'
    )
    made.graph.initializers["w"].const_value = ir.tensor(np.array([weight], np.float32), name="w")
    next(iter(made.graph)).name = name
    return made


@pytest.mark.parametrize("other", [key(model(2.0)), key(model(name="other")), key(model(), "option")])
def test_whatever_the_numbers_depend_on_is_in_the_key(other: str) -> None:
    assert key(model()) == key(model())
    assert other != key(model())
