"""What counts as a failure: each built-in on a model that has it and one that has not, and commands of every kind."""

from __future__ import annotations

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from dlc.errors import UserError
from dlc.predicates import BUILT_IN, Command, predicate
from dlc.types import Array
from tests.passes.texts import graph

X: Array = np.array([[-1, 2], [3, 4]], np.float32)
SOUND = "g (float[n, 2] x) => (float[n, 2] y) { a = Abs(x)  y = Sqrt(a) }"
NAN = SOUND.replace("Abs", "Neg")
DIES = "g (float[n, 2] x) => (float[3] y) { s = Constant <value_ints = [3]> ()  y = Reshape(x, s) }"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def symptom(name: str, body: str, path: Path, x: Array = X) -> str | None:
    ir.save(graph(body), path)
    return predicate(name, 60)(path, {"x": x})


def test_nan(path: Path) -> None:
    assert symptom("nan", NAN, path) == "NaN"
    assert symptom("nan", SOUND, path) is None
    assert symptom("nan", SOUND, path, np.full((1, 2), np.nan, np.float32)) is None, "it was fed NaN"
    assert symptom("nan", DIES, path) is None


def test_crashes(path: Path) -> None:
    assert symptom("crashes", DIES, path) == "FAIL in Reshape"
    assert symptom("crashes", SOUND, path) is None


def four_bits() -> ir.Model:
    """ONNX Runtime fuses these two nodes, where it optimises, into one that rounds activations to 8 bits."""
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["": 21]> g (float[n, 64] x) => (float[n, 64] y) {
        w = Constant()
        s = Constant()
        d = DequantizeLinear<axis = 0, block_size = 32>(w, s)
        y = MatMul(x, d)
    }""")
    weights = np.random.default_rng(0).integers(-8, 8, (64, 64)).astype(ml_dtypes.int4)
    for node, array in zip(model.graph, (weights, np.full((2, 64), 0.02, np.float32)), strict=False):
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))
    return model


def test_differs(path: Path) -> None:
    ir.save(four_bits(), path)
    x = np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)
    assert predicate("differs", 60)(path, {"x": x}) == "differs"
    assert symptom("differs", SOUND, path) is None
    assert symptom("differs", DIES, path) is None


def test_a_command_exits_with_0_while_the_model_fails(path: Path) -> None:
    assert symptom("test -s {model}", SOUND, path) == "exit 0"
    assert symptom("! test -s {model}", SOUND, path) is None
    assert symptom("test -s {model} && test -s {inputs}", SOUND, path) == "exit 0"


def test_the_path_is_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "it's a folder; exit 1"
    folder.mkdir()
    assert symptom("test -s {model}", SOUND, folder / "model.onnx") == "exit 0"


def test_a_command_that_takes_too_long_has_not_failed_and_is_ended(path: Path) -> None:
    ir.save(graph(SOUND), path)
    started = path.with_name("started")
    command = Command(f"echo $$ > {started}; sleep 30; test {{model}}", 1.0)
    assert command(path, {"x": X}) is None
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)  # asks whether it lives


@pytest.mark.parametrize("text", ["/no/such/program {model}", "no-such-program {model}"])
def test_a_command_that_cannot_run_is_a_mistake(text: str, path: Path) -> None:
    with pytest.raises(UserError, match="cannot be run"):
        symptom(text, SOUND, path)


def test_neither_a_name_nor_a_command() -> None:
    with pytest.raises(UserError, match=r"none of crashes, differs, nan, nor a command with \{model\} in it"):
        predicate("difers", 60)
    assert sorted(BUILT_IN) == list(BUILT_IN)
