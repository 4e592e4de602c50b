"""What a hurried user might do: each gets one clear line, its exit code, and nothing half-written."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from tests.cli.conftest import Cli, classifier, examples

ROOT = Path(__file__).parent.parent.parent


def _missing(_: Path) -> str:
    return "nowhere.onnx"


def _text(folder: Path) -> str:
    (folder / "notes.onnx").write_text("Dear diary, today I exported a model.\n" * 20)
    return "notes.onnx"


def _truncated(folder: Path) -> str:
    whole = folder / "whole.onnx"
    ir.save(classifier(), whole)
    (folder / "half.onnx").write_bytes(whole.read_bytes()[:-150])
    return "half.onnx"


def _without_external_data(folder: Path) -> str:
    ir.save(classifier(), folder / "big.onnx", external_data="big.onnx.data", size_threshold_bytes=0)
    (folder / "big.onnx.data").unlink()
    return "big.onnx"


def _future_opset(folder: Path) -> str:
    model = classifier()
    model.opset_imports[""] = 99
    ir.save(model, folder / "future.onnx")
    return "future.onnx"


def _custom_operator(folder: Path) -> str:
    text = """<ir_version: 10, opset_import: ["": 20, "acme": 1]>
    g (float[n, 4] x) => (float[n, 4] y) { y = acme.Sparkle(x) }"""
    ir.save(ir.from_onnx_text(text), folder / "custom.onnx")
    return "custom.onnx"


def _folder(folder: Path) -> str:
    (folder / "dir.onnx").mkdir()
    return "dir.onnx"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_missing, ["nowhere.onnx", "no such file"]),
        (_text, ["notes.onnx", "not an ONNX"]),
        (_truncated, ["half.onnx"]),
        (_without_external_data, ["big.onnx.data"]),
        (_future_opset, ["99"]),
        (_custom_operator, ["Sparkle", "acme"]),
        (_folder, ["dir.onnx"]),
    ],
    ids=lambda v: v.__name__.strip("_") if callable(v) else "",
)
@pytest.mark.parametrize("verb", ["compile", "inspect"])
def test_bad_model_file(cli: Cli, tmp_path: Path, verb: str, make: Callable[[Path], str], says: list[str]) -> None:
    spec = make(tmp_path)
    ran = cli(verb, spec)
    assert ran.code == 2, ran.out + ran.err
    assert ran.err.startswith("error: ")
    assert len(ran.err.splitlines()) <= 3, ran.err
    for word in says:
        assert word.lower() in ran.err.lower()
    assert not (tmp_path / "build").exists() or list((tmp_path / "build").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x, y: {"image": x, "label": y}, ["'image'", "'x'"]),
        (lambda x, y: {"x": x.astype(np.float64), "label": y}, ["float64", "float32"]),
        (lambda x, y: {"x": x[:, :15], "label": y}, ["15", "128"]),
        (lambda x, y: {"x": np.where(np.arange(128) == 3, np.nan, x).astype(np.float32), "label": y}, ["NaN", "batch"]),
        (lambda x, y: {"x": x[:0], "label": y[:0]}, ["empty"]),
        (lambda x, y: {"x": x, "label": y[:-1]}, ["label"]),
    ],
    ids=["name", "dtype", "shape", "nan", "empty", "targets"],
)
def test_bad_data(
    cli: Cli, model: Path, recipe: Path, data: Path, says: list[str],
    change: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]],
) -> None:  # fmt: skip
    np.savez(data / "evaluation.npz", **change(*examples(200, 3)))  # type: ignore[arg-type]
    ran = cli("compile", model, "-r", recipe, "-o", "build")
    assert ran.code == 2, ran.out + ran.err
    for word in says:
        assert word in ran.err
    assert list((data / "build").glob("*")) == []


def test_unknown_key_in_toml(cli: Cli, model: Path, recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("[calibration]", "[calibratoin]"))
    ran = cli("compile", model, "-r", recipe)
    assert ran.code == 2
    assert "calibratoin" in ran.err
    assert "did you mean 'calibration'" in ran.err


def test_unknown_key_in_python(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text(
        "from dlc import Recipe\nrecipe = Recipe(name='r', source='m.onnx', dimensions={})\n"
    )
    ran = cli("compile", "r.py")
    assert ran.code == 2
    assert "dimensions" in ran.err
    assert "r.py:2" in ran.err


def test_module_whose_forward_fails(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the torch extra")
    (tmp_path / "r.py").write_text(
        "import torch\nfrom dlc import Dim, Input, Recipe\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n        raise ValueError('the stitching is off')\n"
        "recipe = Recipe(name='r', source=Net, inputs={'x': Input('float32', ('n', 4))}, dims={'n': Dim()})\n"
    )
    ran = cli("compile", "r.py")
    assert ran.code == 2
    assert "the stitching is off" in ran.err


def test_output_folder_that_exists(cli: Cli, model: Path, tmp_path: Path) -> None:
    assert cli("compile", model, "--variants", "fp32").judged
    before = (tmp_path / "build/centres/manifest.json").read_bytes()
    ran = cli("compile", model, "--variants", "fp32")
    assert ran.code == 2
    assert "--overwrite" in ran.err
    assert (tmp_path / "build/centres/manifest.json").read_bytes() == before
    assert cli("compile", model, "--variants", "fp32", "--overwrite").judged


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compile"], "SOURCE"),
        (["compile", "digits-cn"], "did you mean 'digits-cnn'"),
        (["verify", "nowhere"], "nowhere"),
        (["verify", "."], "SHA256SUMS"),
        (["bench", "nowhere.onnx"], "nowhere.onnx"),
        (["zoo", "train", "minilm"], "minilm"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_wrong_words(cli: Cli, arguments: list[str], says: str) -> None:
    ran = cli(*arguments)
    assert ran.code in (1, 2)
    assert says in ran.out + ran.err


def _spawn(folder: Path, *arguments: str, **kwargs: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dlc", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DLC_CACHE_DIR": str(folder / "cache")}
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs
    )


ENDED_BY_CTRL_C = (130, -signal.SIGINT)
"""Python ends itself by the signal if it met it inside exec(), which dataclasses use; a shell shows 130 for both."""


def interrupted(folder: Path, with_signal: signal.Signals) -> int:
    """Send a signal to a compile somewhere in its export; return the exit code."""
    child = _spawn(folder, "compile", "digits-cnn", "--variants", "fp32")
    deadline = time.monotonic() + 60
    while not list(folder.glob("build/.digits-cnn.*.partial")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    child.send_signal(with_signal)
    _, err = child.communicate(timeout=60)
    assert "interrupted" in err
    assert "Traceback" not in err
    return child.returncode


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    assert interrupted(tmp_path, signal.SIGINT) in ENDED_BY_CTRL_C
    assert list((tmp_path / "build").iterdir()) == []


def test_no_disk_space_is_said_and_leaves_nothing(tmp_path: Path, model: Path) -> None:
    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails like one on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))

    child = _spawn(tmp_path, "compile", model.name, "--variants", "fp32", preexec_fn=small_files)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 2, err
    assert "cannot write" in err
    assert list((tmp_path / "build").iterdir()) == []


@pytest.mark.usefixtures("model")
def test_a_recipe_that_prints_leaves_json_alone(cli: Cli, tmp_path: Path) -> None:
    import json

    (tmp_path / "r.py").write_text(
        "from dlc import Recipe\nprint('hello')\nrecipe = Recipe(name='r', source='centres.onnx', variants='fp32')\n"
    )
    ran = cli("compile", "r.py", "--format", "json")
    assert ran.judged, ran.err
    assert json.loads(ran.out)["name"] == "r"
    assert "hello" in ran.err


def test_an_error_of_several_lines_is_one_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text("raise RuntimeError('first\\nsecond\\nthird')\n")
    ran = cli("compile", "r.py")
    assert ran.code == 2
    assert ran.err.splitlines() == ["error: r.py:1: RuntimeError: first second third"]
