"""dlc compile from the command line: what it leaves, what it prints, its exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from dlc.artifact import read_golden
from dlc.harness import ratios
from dlc.harness.sittings import SITTINGS
from tests.cli.conftest import Cli

ROOT = Path(__file__).parent.parent.parent


def test_onnx_file_with_a_recipe(cli: Cli, model: Path, recipe: Path, tmp_path: Path) -> None:
    ran = cli("compile", model, "-r", recipe, "-o", "build")
    assert ran.judged, ran.err
    assert "fp32" in ran.out
    assert "report.html" in ran.out
    built = tmp_path / "build" / "centres"
    assert sorted(p.relative_to(built).as_posix() for p in built.rglob("*") if p.is_file()) == [
        "SHA256SUMS",
        *(
            f"{v}/{f}"
            for v in ("fp32", "int8")
            for f in ("golden.safetensors", "memory.json", "model.onnx", "session.json")
        ),
        "junit.xml",
        "manifest.json",
        "report.html",
        "statistics.json",
        "summary.md",
    ]
    assert cli("verify", built).code == 0
    assert [len(feeds["x"]) for feeds, _ in read_golden(built / "int8")] == [4, 1]


def test_onnx_file_alone_is_judged_by_agreement(cli: Cli, model: Path) -> None:
    ran = cli("compile", model, "--variants", "fp32,int8", "-o", "build", "--format", "json")
    assert ran.judged, ran.err
    record = json.loads(ran.out)
    assert record["reference"]["metric"] is None
    assert [v["accuracy"] for v in record["variants"]] == [None, None]
    assert all(v["agreement"]["cosine"] > 0.99 for v in record["variants"])
    for start in (record["reference"]["start"], *(v["start"] for v in record["variants"])):
        assert min(start["load_ms"], start["first_ms"]) > 0
    assert all(low <= v["agreement"]["cosine"] <= high for v in record["variants"]
               for low, high in [v["agreement"]["interval"]])  # fmt: skip


def test_the_noise_of_the_machine_is_on_record_beside_every_ratio(cli: Cli, model: Path, recipe: Path) -> None:
    ran = cli("compile", model, "-r", recipe, "-o", "build", "--format", "json")
    assert ran.judged, ran.err
    record = json.loads(ran.out)
    assert len(record["reference"]["again"]) == SITTINGS
    assert record["reference"]["latency"]["ratio"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    floor = ratios.spread(record["reference"]["again"])
    for variant in record["variants"]:
        logs, ratio = variant["latency"]["logs"], variant["latency"]["ratio"]
        assert ratio == msgspec.to_builtins(ratios.ratio(logs, floor))
        assert ratio["low"] < ratio["value"] < ratio["high"]
        assert 0 <= variant["latency"]["settled"] <= SITTINGS
        assert variant["latency"]["runs"] >= 28  # of slow models: 4 in each sitting
        assert 0 <= variant["accuracy"]["chance"] <= 1


def test_two_compiles_give_byte_identical_models(cli: Cli, model: Path, recipe: Path, tmp_path: Path) -> None:
    for out in ("first", "second"):
        assert cli("compile", model, "-r", recipe, "-o", out).judged
    for name in ("model.onnx", "session.json", "memory.json", "golden.safetensors"):
        for variant in ("fp32", "int8"):
            first, second = (tmp_path / out / "centres" / variant / name for out in ("first", "second"))
            assert first.read_bytes() == second.read_bytes(), f"{variant}/{name}"


def test_manifest_holds_no_path_and_no_host(cli: Cli, model: Path, recipe: Path, tmp_path: Path) -> None:
    import platform

    assert cli("compile", model, "-r", recipe, "-o", "build").judged
    for path in (tmp_path / "build").rglob("*"):
        if path.is_file():
            text = path.read_bytes()
            assert str(tmp_path).encode() not in text, path
            assert platform.node().encode() not in text, path


def test_model_files_open_in_a_plain_session_without_dlc(cli: Cli, model: Path, recipe: Path, tmp_path: Path) -> None:
    assert cli("compile", model, "-r", recipe, "-o", "build").judged
    for variant in ("fp32", "int8"):
        code = (
            "import sys, numpy, onnxruntime\n"
            f"s = onnxruntime.InferenceSession({str(tmp_path / 'build/centres' / variant / 'model.onnx')!r})\n"
            "print(s.run(None, {'x': numpy.zeros((3, 128), 'float32')})[0].shape)\n"
            "assert 'torch' not in sys.modules and 'dlc' not in sys.modules\n"
        )
        child = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
        assert child.stdout.strip() == "(3, 32)"


def test_a_variant_that_gives_nan_fails_and_says_where(cli: Cli, model: Path, data: Path, recipe: Path) -> None:
    x = np.load(data / "evaluation.npz")["x"].copy()
    x[7, 0] = 3.4e38  # finite in FP32, infinite in BF16: its softmax is NaN
    np.savez(data / "evaluation.npz", x=x, label=np.load(data / "evaluation.npz")["label"])
    ran = cli("compile", model, "-r", recipe, "--variants", "fp32,bf16", "-o", "build")
    assert ran.code == 1
    assert "bf16: fail: output 'scores' holds NaN" in ran.out


def test_calibration_equal_to_evaluation_is_a_warning_in_the_verdict(
    cli: Cli, model: Path, data: Path, recipe: Path
) -> None:
    (data / "calibration.npz").write_bytes((data / "evaluation.npz").read_bytes())
    ran = cli("compile", model, "-r", recipe, "-o", "build", "-v")
    assert ran.judged, ran.err
    assert "200 calibration examples are evaluation examples" in ran.out
    assert re.search(r"FP32 reference .* KiB +[\d.]+ KiB \(\d+ %\)( +[\d.]+ ms){3}", ran.out)


def test_a_failing_gate_exits_with_1(cli: Cli, model: Path, recipe: Path) -> None:
    recipe.write_text(recipe.read_text() + "[gates]\nmax_size_ratio = 0.001\n")
    ran = cli("compile", model, "-r", recipe, "-o", "build")
    assert ran.code == 1
    assert "at most 0.001" in ran.out


def test_a_variant_asked_for_that_cannot_be_built_exits_with_1_and_says_why(cli: Cli, tmp_path: Path) -> None:
    import onnx_ir as ir

    text = '<ir_version: 10, opset_import: ["": 20]> g (float[n, 4] x) => (float[n, 4] y) { y = Relu(x) }'
    ir.save(ir.from_onnx_text(text), tmp_path / "relu.onnx")
    ran = cli("compile", "relu.onnx", "--variants", "fp32,int8,int4", "-o", "build")
    assert ran.code == 1
    assert "int8: not built: nothing was converted: the model has no weights" in ran.out
    assert "int4: not built" in ran.out


def test_cuda_without_cuda_says_what_to_install(cli: Cli, model: Path) -> None:
    ran = cli("compile", model, "--provider", "cuda", "-o", "build")
    assert ran.code == 3
    assert "dlc[cuda]" in ran.err
    assert not Path("build").exists() or not any(Path("build").iterdir())


@pytest.mark.parametrize("name", ["fp32,int7", "int"])
def test_unknown_variant(cli: Cli, model: Path, name: str) -> None:
    ran = cli("compile", model, "--variants", name)
    assert ran.code == 2
    assert "did you mean" in ran.err


def test_an_older_target_limits_opset_and_ir_version(cli: Cli, model: Path, recipe: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    import onnx_ir as ir

    from dlc.target import detect
    from dlc.target_file import save

    old = replace(detect(), runtime="onnxruntime 1.23.2", opset=21, ir_version=10)
    save(tmp_path / "old.json", old)
    ran = cli("compile", model, "-r", recipe, "-t", "old.json", "--variants", "fp32,fp16,bf16,int8,int4", "-o", "build")
    assert ran.judged, ran.err
    assert "compiled for another target" in ran.out
    for path in (tmp_path / "build").glob("*/*/model.onnx"):
        emitted = ir.load(path)
        assert emitted.opset_imports[""] <= 21, path
        assert emitted.ir_version <= 10, path


def test_external_data_beside_the_file(cli: Cli, tmp_path: Path) -> None:
    import onnx_ir as ir

    from tests.cli.conftest import classifier

    ir.save(classifier(), tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    ran = cli("compile", "m.onnx", "--variants", "fp32,int4", "-o", "build")
    assert ran.judged, ran.err
    (tmp_path / "m.data").unlink()
    assert cli("verify", "build/m").code == 0


def test_the_manifest_follows_the_published_schema(cli: Cli, model: Path, recipe: Path, tmp_path: Path) -> None:
    import jsonschema

    assert cli("compile", model, "-r", recipe, "--variants", "fp32,int8,bf16", "-o", "build").judged
    schema = json.loads((ROOT / "docs" / "manifest.schema.json").read_text())
    jsonschema.validate(json.loads((tmp_path / "build/centres/manifest.json").read_text()), schema)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"opset": 99}, "opset"),
        ({"opset": -5}, "opset"),
        ({"runtime": "banana"}, "banana"),
        ({"threads": 0}, "threads"),
    ],
)
def test_a_target_file_must_make_sense(
    cli: Cli, model: Path, tmp_path: Path, change: dict[str, object], says: str
) -> None:
    from dlc.target import detect
    from dlc.target_file import save

    save(tmp_path / "t.json", detect())
    stated = json.loads((tmp_path / "t.json").read_text())
    (tmp_path / "t.json").write_text(json.dumps(stated | change))
    ran = cli("compile", model, "-t", "t.json")
    assert ran.code in (2, 3)
    assert says in ran.err


def test_sigterm_cleans_up_as_ctrl_c_does(tmp_path: Path) -> None:
    import signal

    from tests.cli.test_bad_input import ENDED_BY_CTRL_C, interrupted

    assert interrupted(tmp_path, signal.SIGTERM) in ENDED_BY_CTRL_C
    assert list((tmp_path / "build").iterdir()) == []
