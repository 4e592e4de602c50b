"""dlc verify, bench, inspect, doctor and zoo from the command line."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from dlc.models import ZOO
from dlc.runtimes.planned_library import library
from tests.cli.conftest import Cli

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def artifact(cli: Cli, model: Path, recipe: Path, tmp_path: Path) -> Path:
    assert cli("compile", model, "-r", recipe, "-o", "build").judged
    return tmp_path / "build" / "centres"


def test_verify_names_the_damaged_file(cli: Cli, artifact: Path) -> None:
    assert cli("verify", artifact).code == 0
    target = artifact / "int8" / "model.onnx"
    damaged = bytearray(target.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    target.write_bytes(damaged)
    ran = cli("verify", artifact)
    assert ran.code == 1
    assert "int8/model.onnx is changed" in ran.out


def test_verify_replays_the_golden_vectors(cli: Cli, artifact: Path) -> None:
    """A model that was exchanged, with its checksum set right again, still answers otherwise."""
    import onnx_ir as ir

    from dlc.artifact import seal

    path = artifact / "fp32" / "model.onnx"
    model = ir.load(path)
    weight = max(model.graph.initializers.values(), key=lambda v: v.const_value.nbytes if v.const_value else 0)
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * 1.01, name=weight.name)
    ir.save(model, path)
    seal(artifact)
    ran = cli("verify", artifact, "--format", "json")
    assert ran.code == 1
    assert {c["subject"]: c["ok"] for c in json.loads(ran.out)} == {
        "files": True,
        "fp32 (memory.json)": False,
        "fp32 (session.json)": False,
        "fp32 (default options)": False,
        "int8 (memory.json)": True,
        "int8 (session.json)": True,
        "int8 (default options)": True,
    }


def test_bench_compares_variants_and_files(cli: Cli, artifact: Path, model: Path) -> None:
    ran = cli("bench", artifact, model, "--dim", "batch=2", "--rounds", "20", "--format", "json")
    assert ran.code == 0, ran.err
    rows = json.loads(ran.out)
    assert [r["name"] for r in rows] == ["centres/fp32", "centres/int8", "centres.onnx"]
    assert rows[0]["latency"]["ratio"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert all(r["latency"]["runs"] == 20 for r in rows)
    assert all(r["latency"][name] is None for r in rows for name in ("p10_ms", "p90_ms", "p99_ms"))
    assert "–" in cli("bench", model, "--rounds", "20").out


def test_bench_refuses_models_of_different_interfaces(cli: Cli, model: Path, tmp_path: Path) -> None:
    import onnx_ir as ir

    text = '<ir_version: 10, opset_import: ["": 20]> g (float[n, 4] x) => (float[n, 4] y) { y = Relu(x) }'
    ir.save(ir.from_onnx_text(text), tmp_path / "relu.onnx")
    ran = cli("bench", model, "relu.onnx", "--rounds", "10")
    assert ran.code == 2
    assert "differ in interface" in ran.err


@pytest.mark.parametrize("dim", ["batch", "batch=0", "batch=x", "btach=2"])
def test_bench_checks_dims(cli: Cli, model: Path, dim: str) -> None:
    ran = cli("bench", model, "--dim", dim, "--rounds", "10")
    assert ran.code == 2
    assert "batch" in ran.err


def test_inspect_counts_multiply_adds(cli: Cli, model: Path) -> None:
    ran = cli("inspect", model, "--dim", "batch=3", "--format", "json")
    assert ran.code == 0, ran.err
    seen = json.loads(ran.out)
    operators = {o["op"]: o for o in seen["operators"]}
    assert operators["Gemm"]["macs"] == 3 * 128 * 32
    assert operators["Gemm"]["bytes"] == 4 * (3 * 128 + 128 * 32 + 32 + 3 * 32)
    assert seen["parameters"] == 128 * 32 + 32
    assert seen["inputs"] == ["x: float32[batch,128]"]


def test_inspect_explains_sites(cli: Cli, model: Path) -> None:
    import onnx_ir as ir

    text = """<ir_version: 10, opset_import: ["": 20]>
    g (float[n, 1, 4, 4] x, float[1] s) => (float[n, 1, 2, 2] y)
    <float[1, 1, 3, 3] w = {1, 1, 1, 1, 1, 1, 1, 1, 1}, float[1] b = {0}, float[1] m = {0}, float[1] v = {1}>
    { c = Conv(x, w)  y = BatchNormalization(c, s, b, m, v) }"""
    ir.save(ir.from_onnx_text(text), "bn.onnx")
    ran = cli("inspect", "bn.onnx", "--explain", "batch-norm")
    assert ran.code == 0, ran.err
    assert "not constant" in ran.out
    assert cli("inspect", model, "--explain", "all").code == 0
    assert "did you mean 'attention'" in cli("inspect", model, "--explain", "atention").err


def test_inspect_says_what_a_rewrite_without_sites_looks_for(cli: Cli, model: Path) -> None:
    ran = cli("inspect", model, "--explain", "gelu", "--no-measure")
    assert ran.code == 0, ran.err
    assert "no site: nothing in this graph looks like it" in ran.out
    assert "becomes Gelu." in ran.out


def test_doctor_tells_the_runtime(cli: Cli) -> None:
    ran = cli("doctor", "--format", "json")
    assert ran.code == 0, ran.err
    found = {f["subject"]: f for f in json.loads(ran.out)["findings"]}
    assert found["provider cpu"]["state"] == "available"
    assert found["onnxruntime"]["state"][0].isdigit()
    assert f"{os.cpu_count()} core" in found["machine"]["state"]
    assert platform.system() in found["machine"]["state"]
    assert platform.node() not in found["machine"]["state"]
    assert "dlc[cuda]" in found["onnxruntime-gpu"]["remedy"]


def test_doctor_says_what_planned_offsets_lack(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    library.cache_clear()
    try:
        found = {f["subject"]: f for f in json.loads(cli("doctor", "--format", "json").out)["findings"]}
    finally:
        library.cache_clear()
    assert found["planned offsets"]["state"] == "not available, session options instead"
    assert "apt-get install gcc" in found["planned offsets"]["remedy"]


def test_doctor_prints_the_commands_as_they_must_be_typed(cli: Cli) -> None:
    assert "pip install 'dlc[cuda]'" in cli("doctor").out


def test_zoo_lists_every_model(cli: Cli) -> None:
    ran = cli("zoo", "--format", "json")
    assert ran.code == 0, ran.err
    assert [e["name"] for e in json.loads(ran.out)] == sorted(ZOO)


def test_verify_bench_and_inspect_work_without_torch(artifact: Path, model: Path) -> None:
    """The same three verbs in a process where importing torch fails."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from dlc.cli import run\n"
        f"a, m = {str(artifact)!r}, {str(model)!r}\n"
        "assert run(['verify', a]) == 0 and run(['bench', a, '--rounds', '10']) == 0 and run(['inspect', m]) == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_verify_checks_the_memory_plan(cli: Cli, artifact: Path) -> None:
    from dlc.artifact import seal

    path = artifact / "fp32" / "memory.json"
    plan = json.loads(path.read_text())
    first = plan["buffers"][0]
    plan["buffers"].append({**first, "name": "intruder"})
    path.write_text(json.dumps(plan))
    seal(artifact)
    ran = cli("verify", artifact)
    assert ran.code == 1
    assert "share bytes while both are alive" in ran.out


def test_bench_times_at_the_recipe_s_sizes(artifact: Path) -> None:
    """Typical batch 4; at 1 the same model does a quarter of the work, which the fed shapes show, not the clock."""
    from dlc.artifact import read_golden
    from dlc.bench import _example, _subjects, sizes_to_time
    from dlc.interface import Interface, TensorType

    subjects = list(_subjects(artifact))
    interface = Interface((TensorType("x", "float32", ("batch", 128)),), ())
    example = _example(subjects)
    assert example["x"].shape == read_golden(artifact / "fp32")[0][0]["x"].shape == (4, 128)
    assert sizes_to_time(interface, example, {}) == {"batch": 4}
    assert sizes_to_time(interface, example, {"batch": 2}) == {"batch": 2}
    assert sizes_to_time(interface, {}, {}) == {"batch": 1}
