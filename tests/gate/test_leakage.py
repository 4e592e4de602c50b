"""Calibration examples in the evaluation data of a gate."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from dlc.data import inspect
from dlc.gate.judging import judge
from dlc.gate.leakage import look
from dlc.gate.limits import Limits
from dlc.gate.lines import exit_code
from dlc.gate.observation import Leakage, Observation
from dlc.harness.accuracy import METRICS
from dlc.interface import Interface
from dlc.recipe import Dataset
from dlc.types import Array, Feeds
from tests.gate.example import observation

NET = """<ir_version: 10, opset_import: ["" : 20]>
g (float[b, 8] x) => (float[b, 8] y) { y = Neg (x) }"""
INTERFACE = Interface.of(ir.from_onnx_text(NET))


def rows(count: int, seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)


def dataset(x: Array) -> Dataset:
    return Dataset("rows", lambda: [{"x": x[:5]}, {"x": x[5:]}])


def seen(found: Leakage | None) -> Observation:
    plain = observation()
    assert plain.data is not None
    return msgspec.structs.replace(plain, data=msgspec.structs.replace(plain.data, leakage=found))


def remarks(found: Leakage | None) -> list[str]:
    lines = judge(seen(found), None, Limits(), METRICS["top1"])
    assert exit_code(lines) == 0
    return [str(line) for line in lines if line.gate == "leakage"]


def test_one_example_of_both_is_found() -> None:
    calibration, evaluation = rows(12, 0), rows(40, 1)
    clean = look(dataset(calibration), inspect(dataset(evaluation), INTERFACE), INTERFACE)
    assert clean is not None
    assert (clean.exact, clean.near) == (0, 0)
    evaluation[33] = calibration[3]
    evaluation[34] = calibration[4] + np.float32(1e-4)
    found = look(dataset(calibration), inspect(dataset(evaluation), INTERFACE), INTERFACE)
    assert found == Leakage(sha256=inspect(dataset(calibration), INTERFACE).sha256, exact=1, near=1)


def test_calibration_data_that_cannot_be_read_stop_no_gate() -> None:
    def batches() -> Iterator[Feeds]:
        raise FileNotFoundError("train.npz")

    evaluation = inspect(dataset(rows(9, 0)), INTERFACE)
    found = look(Dataset("training", batches), evaluation, INTERFACE)
    assert found is not None
    assert "FileNotFoundError: train.npz" in found.unread
    assert look(None, evaluation, INTERFACE) is None


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, []),
        (Leakage(sha256="c" * 64), []),
        (Leakage(sha256="c" * 64, exact=2), ["2 calibration examples are evaluation examples: accuracy may flatter"]),
        (
            Leakage(sha256="c" * 64, near=3),
            ["3 calibration examples are near duplicates of evaluation examples: accuracy may flatter"],
        ),
        (
            Leakage(sha256="a" * 64, exact=2),
            ["not looked for, as the recipe's calibration data are not those that the artifact was compiled with"],
        ),
        (Leakage(unread="gone"), ["not looked for, as the calibration data cannot be read here: gone"]),
    ],
)
def test_it_is_a_remark_as_in_the_compile(found: Leakage | None, said: list[str]) -> None:
    assert remarks(found) == [f"note: int8/leakage: {text}" for text in said]
