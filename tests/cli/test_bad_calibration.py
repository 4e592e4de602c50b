"""What may be wrong with calibration: the data, the model, the options; each is said in one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from tests.cli.conftest import Cli, examples

SIDE = 16
NET = f"""<ir_version: 10, opset_import: ["": 20]>
net (float[batch, 1, {SIDE}, {SIDE}] x) => (float[batch, 1, {SIDE}, {SIDE}] y)
<float[1, 1, 3, 3] w = {{0.1, 0.2, 0.1, 0.2, 0.4, 0.2, 0.1, 0.2, 0.1}}, float one = {{1.0}}>
{{ BODY }}
"""
BODIES = {
    "plain": "y = Conv <pads = [1, 1, 1, 1]> (x, w)",
    "infinite": "z = Reciprocal (x)  y = Conv <pads = [1, 1, 1, 1]> (z, w)",
    "constant": "o = Mul (x, x)  z = Div (o, o)  y = Conv <pads = [1, 1, 1, 1]> (z, w)",
}
RECIPE = """
[dims.batch]
typical = 4
[calibration]
file = "calibration.npz"
"""


@pytest.fixture
def net(tmp_path: Path) -> Callable[[str], str]:
    """Write one of the nets, a recipe that calibrates it, and 40 images."""
    images = np.random.default_rng(0).uniform(0.5, 1, size=(40, 1, SIDE, SIDE)).astype(np.float32)
    np.savez(tmp_path / "calibration.npz", x=images)
    (tmp_path / "recipe.toml").write_text(RECIPE)

    def write(body: str) -> str:
        ir.save(ir.from_onnx_text(NET.replace("BODY", BODIES[body])), tmp_path / "net.onnx")
        return "net.onnx"

    return write


def int8(cli: Cli, model: str, *more: str, json_too: bool = False) -> tuple[int, str, str]:
    form = ("--format", "json") if json_too else ()
    ran = cli("compile", model, "-r", "recipe.toml", "--variants", "int8", "-o", "build", "--overwrite", *form, *more)
    return ran.code, ran.out, ran.err


def test_no_calibration_example(cli: Cli, net: Callable[[str], str]) -> None:
    np.savez("calibration.npz", x=np.zeros((0, 1, SIDE, SIDE), np.float32))
    code, _, err = int8(cli, net("plain"))
    assert code == 2
    assert "'calibration' is empty" in err


def test_few_calibration_examples_are_used_and_warned_of(cli: Cli, net: Callable[[str], str]) -> None:
    model = net("plain")
    _, out, err = int8(cli, model, "--no-evaluate")
    assert "calibration examples" not in out, err
    np.savez("calibration.npz", x=np.ones((5, 1, SIDE, SIDE), np.float32) * np.arange(SIDE, dtype=np.float32))
    code, out, err = int8(cli, model, "--no-evaluate")
    assert code in (0, 1, 5), err
    assert "warning: only 5 calibration examples" in out
    assert "give 32 or more" in out


def test_a_value_that_is_infinite_is_named(cli: Cli, net: Callable[[str], str]) -> None:
    images = np.ones((40, 1, SIDE, SIDE), np.float32)
    images[35, 0, 2, 3] = 0
    np.savez("calibration.npz", x=images)
    code, out, _ = int8(cli, net("infinite"), "--no-evaluate")
    assert code == 1
    assert "int8: not built: calibration batch 1: 'z' holds NaN or infinity" in out


def test_a_value_that_never_changes_is_named(cli: Cli, net: Callable[[str], str]) -> None:
    code, out, err = int8(cli, net("constant"))
    assert code in (0, 1, 5), err
    assert "int8: never changes on the calibration data: z = 1;" in out
    [variant] = json.loads(Path("build/net/manifest.json").read_text())["variants"]
    assert any("z = 1" in note for note in variant["notes"])


def test_shapes_that_differ_from_the_model(cli: Cli, net: Callable[[str], str]) -> None:
    np.savez("calibration.npz", x=np.zeros((40, 1, SIDE, SIDE + 1), np.float32))
    code, _, err = int8(cli, net("plain"))
    assert code == 2
    assert f"[32, 1, {SIDE}, {SIDE + 1}]" in err
    assert "data set 'calibration', batch 0" in err


def test_batches_of_different_sizes_are_calibrated(cli: Cli, net: Callable[[str], str], tmp_path: Path) -> None:
    code, _, err = int8(cli, net("plain"))  # 40 images in batches of 32 and 8
    assert code in (0, 1, 5), err
    assert (tmp_path / "build/net/int8/model.onnx").exists()


def test_labels_that_are_missing(cli: Cli, model: Path, data: Path, recipe: Path) -> None:
    x, _ = examples(200, 3)
    np.savez(data / "evaluation.npz", x=x)
    ran = cli("compile", model, "-r", recipe, "-o", "build")
    assert ran.code == 2
    assert "evaluation.npz has no array 'label'" in ran.err
    recipe.write_text(recipe.read_text().replace('targets = "label"\n', ""))
    for name in ("calibration", "evaluation"):
        np.savez(data / f"{name}.npz", x=x)
    ran = cli("compile", model, "-r", recipe, "-o", "build")
    assert ran.code == 2
    assert "has no targets, so top1 cannot be computed" in ran.err


def test_a_quantized_model_given_again(cli: Cli, net: Callable[[str], str], tmp_path: Path) -> None:
    assert int8(cli, net("plain"))[0] in (0, 1, 5)
    (tmp_path / "build/net/int8/model.onnx").rename(tmp_path / "again.onnx")
    for variant in ("int8", "int4", "fp16", "bf16", "mixed"):
        ran = cli("compile", "again.onnx", "-r", "recipe.toml", "--variants", variant, "-o", "twice", "--overwrite")
        assert ran.code == 1, ran.err
        assert f"{variant}: not built: the model is quantized already (" in ran.out
        assert "give the FP32 model it was made from" in ran.out
    ran = cli("compile", "again.onnx", "-r", "recipe.toml", "--variants", "fp32", "-o", "twice", "--overwrite")
    assert ran.judged, ran.err


@pytest.mark.parametrize(
    ("variant", "says"), [("int8", "the model has no weights"), ("int4", "no node reads a weight")]
)
def test_a_model_without_weights(cli: Cli, tmp_path: Path, variant: str, says: str) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[batch, 4] x) => (float[batch, 4] y) { y = Relu (x) }"""
    ir.save(ir.from_onnx_text(text), tmp_path / "bare.onnx")
    ran = cli("compile", "bare.onnx", "--variants", variant)
    assert ran.code == 1
    assert f"{variant}: not built: " in ran.out
    assert says in ran.out


def test_the_cap_is_held_or_refused(cli: Cli, net: Callable[[str], str]) -> None:
    model = net("plain")
    code, out, _ = int8(cli, model, "--max-ram", "50kB")
    assert code == 1
    assert "int8: not built: to calibrate 'x' takes 0.1 MiB" in out
    assert "raise --max-ram" in out
    code, out, err = int8(cli, model, "--max-ram", "100kB")
    assert code in (0, 1, 5), err
    assert "int8: calibrated in 2 runs over the data, to stay within max_ram" in out


@pytest.mark.parametrize("cap", ["lots", "2XiB", "-1GiB", "0"])
def test_a_cap_that_is_no_amount(cli: Cli, net: Callable[[str], str], cap: str) -> None:
    code, _, err = int8(cli, net("plain"), f"--max-ram={cap}")
    assert code == 2
    assert "is no amount of memory" in err


def test_the_method_is_chosen_and_on_record(cli: Cli, net: Callable[[str], str], tmp_path: Path) -> None:
    model, recipe = net("plain"), tmp_path / "recipe.toml"
    recipe.write_text(RECIPE + '[calibrate]\nmethod = "percentile"\nmax_ram = "1GiB"\n')
    assert recorded(cli, model) == "percentile"
    assert recorded(cli, model, "--calibration-method", "entropy") == "entropy"
    assert recorded(cli, model, "--calibration-method", "best") in ("mse", "minmax", "percentile", "entropy")
    assert len(list((tmp_path / "cache/calibrations").iterdir())) == 3


def recorded(cli: Cli, model: str, *more: str) -> str:
    code, out, err = int8(cli, model, *more, json_too=True)
    assert code in (0, 1, 5), err
    [variant] = json.loads(out)["variants"]
    [entry] = [p for p in variant["passes"] if p["name"] == "quantize-static"]
    return str(entry["options"]["method"])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('method = "entropie"', "did you mean 'entropy'"),
        ('metod = "mse"', "did you mean 'method'"),
        ("percentile = 12.0", "percentile=12.0"),
        ("momentum = 1.0", "momentum=1.0"),
        ('max_ram = "much"', "'much' is no amount of memory"),
    ],
)
def test_options_in_toml_that_are_wrong(cli: Cli, net: Callable[[str], str], line: str, says: str) -> None:
    Path("recipe.toml").write_text(f"{RECIPE}[calibrate]\n{line}\n")
    code, _, err = int8(cli, net("plain"))
    assert code == 2
    assert says in err
    assert "recipe.toml" in err


def test_verbose_lists_what_is_quantized_and_what_is_not(cli: Cli, net: Callable[[str], str], tmp_path: Path) -> None:
    body = "z = Conv <pads = [1, 1, 1, 1]> (x, w)  y = ConvTranspose <pads = [1, 1, 1, 1]> (z, w)"
    model = net("plain")
    ir.save(ir.from_onnx_text(NET.replace("BODY", body)), tmp_path / model)
    _, out, err = int8(cli, model, "-v")
    assert "int8: quantized: Conv" in out, err
    assert "int8: not quantized: ConvTranspose: only Conv, Gemm and MatMul have a static 8-bit kernel" in out
