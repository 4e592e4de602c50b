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
import onnx
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


def _empty(folder: Path) -> str:
    (folder / "empty.onnx").touch()
    return "empty.onnx"


def _future_ir(folder: Path) -> str:
    model = classifier()
    model.ir_version = 99
    ir.save(model, folder / "newer.onnx")
    return "newer.onnx"


X, Y = "float[n, 4] x", "float[n, 4] y"
REFUSED = {
    "unknown operator": (f"({X}) => ({Y}) {{ y = Sparkle(x) }}", "Sparkle"),
    "unknown contrib operator": (f"({X}) => ({Y}) {{ y = com.microsoft.Sparkle(x) }}", "Sparkle"),
    "no kernel": ("(double[n, 4] x) => (double[n, 4] y) { y = Erf(x) }", "Erf"),
    "unknown attribute": (f"({X}) => ({Y}) {{ y = Relu <nope = 1> (x) }}", "nope"),
    "two types": (f"({X}, int64[4] b) => ({Y}) {{ y = Add(x, b) }}", "Add"),
    "shapes that do not fit": ("(float[2, 4] x, float[3, 5] w) => (float[2, 5] y) { y = MatMul(x, w) }", "MatMul"),
    "nothing computes it": (f"({X}) => ({Y}) {{ y = Add(x, nothing) }}", "nothing"),
    "a cycle": (f"({X}) => ({Y}) {{ y = Add(x, z)  z = Neg(y) }}", "'z'"),
    "one output twice": (f"({X}) => ({Y}, {Y}) {{ y = Neg(x) }}", "'y'"),
    "an input for an output": (f"({X}) => ({X}) {{ }}", "'x'"),
    "strings": ("(string[n] x) => (bool[n] y) { y = Equal(x, x) }", "STRING"),
    "a sequence": (f"({X}) => (seq(float[n, 4]) y) {{ y = SequenceConstruct(x, x) }}", "Sequence"),
}
LEGAL = {
    "no input": "() => (float[2] y) <float[2] c = {1, 2}> { y = Neg(c) }",
    "no node": "() => (float[2] y) <float[2] y = {1, 2}> { }",
    "no weight": f"({X}) => ({Y}) {{ y = Relu(x) }}",
    "nothing to compute": f"({X}) => ({Y}) {{ y = Identity(x) }}",
    "a scalar": "(float x) => (float y) { y = Neg(x) }",
    "no element": "(float[0, 4] x) => (float[0, 4] y) { y = Neg(x) }",
    "strings inside": f"({X}) => (bool[n, 4] y) {{ s = Cast <to = 8> (x)  y = Equal(s, s) }}",
    "a sequence inside": f"({X}) => (float[n, 4] y) {{ s = SequenceConstruct(x) y = ConcatFromSequence<axis=0>(s) }}",
    "an input with a default": "(float[n, 4] x, float[4] b = {1, 2, 3, 4}) => (float[n, 4] y) { y = Add(x, b) }",
}


def written(folder: Path, body: str) -> str:
    """Write a model file without looking at what is in it."""
    text = f'<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]> graph {body}'
    (folder / "odd.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return "odd.onnx"


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("verb", ["compile", "inspect"])
def test_what_onnx_runtime_or_dlc_cannot_load(cli: Cli, tmp_path: Path, verb: str, case: str) -> None:
    body, says = REFUSED[case]
    ran = cli(verb, written(tmp_path, body))
    assert ran.code == 2, ran.out + ran.err
    assert ran.err.startswith("error: ")
    assert len(ran.err.splitlines()) == 1, ran.err
    assert "odd.onnx" in ran.err
    assert says in ran.err
    assert not list(tmp_path.glob("build/*"))


@pytest.mark.parametrize("case", LEGAL)
def test_legal_but_odd_models_compile(cli: Cli, tmp_path: Path, case: str) -> None:
    model = written(tmp_path, LEGAL[case])
    assert cli("inspect", model).code == 0
    ran = cli("compile", model, "--variants", "fp32", "-o", "build")
    assert ran.judged, ran.out + ran.err
    assert (tmp_path / "build/odd/fp32/model.onnx").exists()


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
        (_empty, ["empty.onnx", "the file is empty"]),
        (_future_ir, ["newer.onnx", "99"]),
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
