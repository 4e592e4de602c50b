"""dlc compare from the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc.compared_models import parse_bytes
from dlc.errors import RecipeError
from tests.cli.conftest import Cli, classifier

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def other(model: Path) -> Path:
    """The same classifier with one class's weights off by a tenth."""
    changed = classifier()
    weights = changed.graph.initializers["w"]
    assert weights.const_value is not None
    array = weights.const_value.numpy().copy()
    array[:, 0] *= 1.1
    weights.const_value = ir.tensor(array, name="w")
    path = model.with_name("other.onnx")
    ir.save(changed, path)
    return path


def test_outputs_then_layers(cli: Cli, model: Path, other: Path) -> None:
    ran = cli("compare", model, other, "--dim", "batch=8")
    assert ran.code == 0, ran.err
    assert "other.onnx against centres.onnx, on 4 seeded inputs at batch=8, seed 0" in ran.out
    assert "activations" not in ran.out
    ran = cli("compare", model, other, "--layers")
    assert ran.code == 0, ran.err
    assert "activations: 2 of 2 matched" in ran.out
    assert "weights: 1 of 1 matched" in ran.out
    assert "first divergence: 'distances', computed by" in ran.out
    assert "below 80 dB" in ran.out
    assert "no layer is below 5 dB" in cli("compare", model, other, "--layers", "--threshold", "5").out


def test_json(cli: Cli, model: Path, other: Path) -> None:
    ran = cli("compare", model, other, "--layers", "--max-ram", "1", "--format", "json")
    assert ran.code == 0, ran.err
    said = json.loads(ran.out)
    assert [o["value"] for o in said["outputs"]] == ["scores"]
    assert [(x["kind"], x["value"]) for x in said["layers"]] == [
        ("activation", "distances"), ("activation", "scores"), ("weight", "w"),
    ]  # fmt: skip
    assert said["first"]["value"] == "distances"


def test_variants_of_an_artifact(cli: Cli, model: Path, recipe: Path) -> None:
    assert cli("compile", model, "-r", recipe, "-o", "build", "--no-evaluate").judged
    ran = cli("compare", "build/centres", "fp32", "int8", "--layers")
    assert ran.code == 0, ran.err
    assert "int8 against fp32, on 2 golden vectors" in ran.out
    assert "weights: 1 of 1 matched" in ran.out
    assert cli("compare", "build/centres/fp32", "build/centres/int8").out in ran.out
    ran = cli("compare", "build/centres", "fp32", "int4")
    assert (ran.code, "has no variant 'int4'; it has fp32, int8" in ran.err) == (2, True)
    ran = cli("compare", "build/centres", model)
    assert (ran.code, "name the variants: dlc compare build/centres" in ran.err) == (2, True)
    ran = cli("compare", "build/centres", "fp32", "int8", "-r", recipe)
    assert "batches of calibration" in ran.out or "batches of" in ran.out, ran.err
    manifest = json.loads(Path("build/centres/manifest.json").read_text())
    [_, int8] = manifest["variants"]
    assert "no simulated form" in int8["simulation"]["note"]
    shutil.rmtree("build")


def test_nan_ends_with_1(cli: Cli, model: Path, other: Path) -> None:
    broken = ir.load(other)
    broken.graph.initializers["b"].const_value = ir.tensor(np.full(32, np.nan, np.float32), name="b")
    ir.save(broken, other)
    ran = cli("compare", model, other)
    assert ran.code == 1
    assert "output 'scores': 128 elements are NaN or infinite on one side only" in ran.out


@pytest.mark.parametrize(("arguments", "says"), [
    (("MODEL",), "two models are compared"),
    (("MODEL", "missing.onnx"), "missing.onnx: no such file"),
    (("MODEL", "OTHER", "--max-ram", "lots"), "is no amount of memory"),
    (("MODEL", "OTHER", "--dim", "btach=2"), "did you mean 'batch'"),
    (("MODEL", "OTHER", "--batches", "0"), "0 is not in the range"),
    (("MODEL", "fp32", "int8"), "is not an artifact"),
])  # fmt: skip
def test_bad_input(cli: Cli, model: Path, other: Path, arguments: tuple[str, ...], says: str) -> None:
    names = {"MODEL": str(model), "OTHER": str(other)}
    ran = cli("compare", *(names.get(a, a) for a in arguments))
    assert ran.code == 2
    assert says in ran.err


def test_amounts_of_memory() -> None:
    assert [parse_bytes(t) for t in ("512", "1KiB", "1.5 MiB", "2GB", "1gib")] == [
        512, 1024, 3 << 19, 2 * 10**9, 1 << 30,
    ]  # fmt: skip
    for text in ("", "0", "-1MiB", "1XB", "inf", "MiB"):
        with pytest.raises(RecipeError):
            parse_bytes(text)


def test_inspect_says_why_it_is_slow(cli: Cli, model: Path, tmp_path: Path) -> None:
    from tests.passes.quantized import dynamically

    slow = tmp_path / "slow.onnx"
    body = "g (float[1, 4, 9, 9] x) => (float[1, 8, 7, 7] y) <float[8, 4, 3, 3] w = {WEIGHTS}> { y = Conv(x, w) }"
    numbers = np.random.default_rng(0).standard_normal(288).round(3).tolist()
    text = body.replace("WEIGHTS", ", ".join(map(repr, numbers)))
    ir.save(dynamically(ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": 20]> {text}')), slow)
    ran = cli("inspect", slow)
    assert ran.code == 0, ran.err
    assert "quantization: 1 finding" in ran.out
    assert "- dynamically quantized Conv: ConvInteger, 1 nodes," in ran.out
    assert "way out: quantize convolutions statically" in ran.out
    assert "of the time" not in cli("inspect", slow, "--no-measure").out
    assert "quantization" not in cli("inspect", model).out
    assert json.loads(cli("inspect", model, "--format", "json").out)["quantization"] is None


def test_works_without_torch(model: Path, other: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"from dlc.cli import run\nsys.exit(run(['compare', {str(model)!r}, {str(other)!r}, '--layers']))"
    )
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
