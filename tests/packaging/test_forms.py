"""Each form of a compiled model: what it holds, that it proves itself where it runs, and that a wrong one fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from packaging.requirements import Requirement

from dlc.artifact import GOLDEN, read_golden, seal, write_golden
from dlc.lookup import load
from dlc.packaging import FORMS, npm, record
from dlc.packaging.chain import SATURATES
from dlc.packaging.compose import Packaged, compose
from dlc.packaging.form import Form
from dlc.packaging.source import load_source
from dlc.packaging.texts import TEMPLATES
from dlc.runtimes.ort_format import listed_operators
from dlc.target import INTEGER_DOT
from tests.packaging.conftest import Cli, as_if_for, edit_graph, set_verdict

NODE = shutil.which("node") is not None and all(map(npm.present, ("onnxruntime-node", "onnxruntime-common")))
WEB = shutil.which("chromium") is not None and npm.present("onnxruntime-web") is not None
needs = {
    "node": pytest.mark.skipif(not NODE, reason="needs node, and onnxruntime-node in $DLC_NODE_MODULES or the cache"),
    "web": pytest.mark.skipif(not WEB, reason="needs chromium, and onnxruntime-web in $DLC_NODE_MODULES or the cache"),
    "c": pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("cmake")), reason="needs gcc and cmake"),
}
EVERY = [pytest.param(name, marks=needs.get(name, ())) for name in FORMS]
REPLAYED = [p for p in EVERY if p.values[0] != "triton"]


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "out"
    assert not list((tmp_path / "out").glob(".*")), "something half-written was left"


def as_package(artifact: Path, form: str, out: Path, precision: str = "int8") -> Path:
    made = compose([load_source(artifact / precision)], form, out)
    assert made.ok, made.proofs
    assert made.path is not None
    return made.path


@pytest.mark.parametrize("form", EVERY)
def test_a_form_proves_itself_and_lists_its_files(form: str, artifact: Path, out: Path) -> None:
    folder = as_package(artifact, form, out)
    package = record.read(folder)
    assert record.faults(package.files, record.list_files(folder)) == []
    assert {"README.md", "NOTICES.md", "sbom.cdx.json"} <= set(package.files)
    assert package.form == form
    assert str(folder.parent) not in (folder / "README.md").read_text()


@pytest.mark.parametrize("form", EVERY)
def test_one_artifact_gives_one_package(form: str, artifact: Path, tmp_path: Path) -> None:
    source = load_source(artifact / "int8")
    made = [compose([source], form, tmp_path / name, check=False).path for name in ("one", "two")]
    first, second = (path for path in made if path is not None)
    assert (first / record.RECORD).read_bytes() == (second / record.RECORD).read_bytes()
    assert record.list_files(first) == record.list_files(second)


def other_answers(artifact: Path, precision: str) -> None:
    """State golden outputs that no model gives."""
    vectors = [
        (feeds, {k: v[::-1] * 2 + 1 for k, v in out.items()}) for feeds, out in read_golden(artifact / precision)
    ]
    (artifact / precision / GOLDEN).unlink()
    write_golden(artifact / precision, vectors)  # type: ignore[arg-type]
    seal(artifact)


@pytest.mark.parametrize("form", REPLAYED)
def test_a_wrong_answer_is_found_where_the_model_runs_and_leaves_no_package(
    form: str, artifact: Path, out: Path
) -> None:
    other_answers(artifact, "int8")
    made = compose([load_source(artifact / "int8")], form, out)
    assert not made.ok
    assert made.path is None
    assert any("differs by" in p.detail for p in made.proofs)
    assert list(out.iterdir()) == []


def test_every_form_of_the_table_is_one() -> None:
    for name, path in FORMS.items():
        form: Form = load(path)()
        assert form.name == name


def test_the_python_runner_needs_neither_dlc_nor_anything_but_what_it_lists(artifact: Path, out: Path) -> None:
    folder = as_package(artifact, "onnx", out)
    listed_packages = {Requirement(line).name for line in (folder / "requirements.txt").read_text().split()}
    assert listed_packages == {"onnxruntime", "numpy"}
    lines = [line for line in (folder / "run.py").read_text().splitlines() if line.strip() and '"""' not in line]
    assert len(lines) <= 20, "the runner is meant to be read at a glance"


def run_python(folder: Path, code: str, **variables: str) -> Any:
    child = subprocess.run(
        [sys.executable, "-B", "-c", f"import json; {code}"], cwd=folder, env={"PYTHONPATH": str(folder), **variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    return child.stdout


def test_the_runner_takes_the_first_variant_that_the_machine_can_run(artifact: Path, out: Path) -> None:
    chosen = load_source(artifact / "int8")
    folder = compose([chosen, chosen.sibling("fp32")], "onnx", out).path
    assert folder is not None
    chain = json.loads((folder / "chain.json").read_text())
    assert [link["variant"] for link in chain] == ["int8", "fp32"]
    chain[0]["isa"], chain[0]["why"] = ["no_such_isa"], "it is none"
    (folder / "chain.json").write_text(json.dumps(chain))
    assert run_python(folder, "from run import Model; print(Model().link['variant'])") == "fp32\n"
    chain[1]["provider"] = "CUDAExecutionProvider"
    (folder / "chain.json").write_text(json.dumps(chain))
    child = subprocess.run([sys.executable, "-B", "proof.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert child.returncode != 0
    assert "int8 needs one of no_such_isa, and this processor has none of them (it is none)" in child.stderr
    assert "fp32 needs CUDAExecutionProvider" in child.stderr


CHAINED = [p for p in EVERY if p.values[0] in ("onnx", "node", "c")]


def with_fallback(artifact: Path, form: str, out: Path) -> Packaged:
    chosen = load_source(artifact / "int8")
    return compose([chosen, chosen.sibling("fp32")], form, out)


@pytest.mark.parametrize("form", CHAINED)
def test_every_link_of_the_chain_is_replayed(form: str, artifact: Path, out: Path) -> None:
    made = with_fallback(artifact, form, out)
    assert [(p.ok, p.answer.variant if p.answer else None) for p in made.proofs] == [(True, "int8"), (True, "fp32")]
    other_answers(artifact, "fp32")
    made = with_fallback(artifact, form, out.with_name("again"))
    assert [p.ok for p in made.proofs] == [True, False]
    assert "differs by" in made.proofs[1].detail
    assert made.path is None


def make_unfit(folder: Path, form: str, *variants: str) -> None:
    """Let variants of a package need what no processor has."""
    if form == "c":
        text, old = (TEMPLATES / "c" / "model.c").read_text(), "v->needs == NULL || !lacks_integer_dot()"
        assert old in text
        unfit = " || ".join(f'!strcmp(v->name, "{variant}")' for variant in variants)
        text = text.replace(old, f"!({unfit})").replace("summed in 32 bits: %s", "no_such_isa%.0s")
        (folder / "model.c").write_text(text)
        return
    chain = json.loads((folder / "chain.json").read_text())
    for link in chain:
        link["isa"], link["why"] = (["no_such_isa"], "it is none") if link["variant"] in variants else ([], "")
    (folder / "chain.json").write_text(json.dumps(chain))


@pytest.mark.parametrize("form", CHAINED)
def test_a_link_that_does_not_fit_here_is_left_out_if_another_does(form: str, artifact: Path, out: Path) -> None:
    folder = with_fallback(artifact, form, out).path
    assert folder is not None
    for variants, expected in ((("int8",), [True, True]), (("int8", "fp32"), [False, False])):
        make_unfit(folder, form, *variants)
        proofs = load(FORMS[form])().check(folder)
        assert [p.ok for p in proofs] == expected
        assert "not replayed here: no variant of this package fits this" in proofs[0].detail
        assert "int8 needs" in proofs[0].detail
        assert "no_such_isa" in proofs[0].detail
        assert (proofs[1].answer is None) == ("fp32" in variants)
    assert "fp32 needs" in proofs[1].detail


def test_ort_lists_the_operators_of_the_graph_as_it_runs(artifact: Path, out: Path) -> None:
    folder = as_package(artifact, "ort", out)
    assert listed_operators(folder / "required_operators_and_types.config") == {"DynamicQuantizeMatMul", "Softmax"}
    text = (folder / "required_operators_and_types.config").read_text()
    assert "com.microsoft;1;DynamicQuantizeMatMul" in text
    assert "/" not in text, "a path of this machine"


def test_the_build_command_names_the_version_and_is_one(artifact: Path, out: Path) -> None:
    folder = as_package(artifact, "ort", out)
    assert f"--branch v{record.read(folder).runtime.version} " in (folder / "build.sh").read_text()
    subprocess.run(["sh", "-n", "build.sh"], cwd=folder, check=True)


def test_ort_finds_an_operator_that_is_listed_but_does_not_run(artifact: Path, out: Path) -> None:
    folder = as_package(artifact, "ort", out)
    config = folder / "required_operators_and_types.config"
    config.write_text(config.read_text() + "ai.onnx;13;Erf\n")
    proofs = load(FORMS["ort"])().check(folder)
    assert [p.ok for p in proofs] == [True, False]
    assert "listed but idle: ['Erf']" in proofs[1].detail


@needs["node"]
def test_node_declares_types_and_its_one_dependency(artifact: Path, out: Path) -> None:
    folder = as_package(artifact, "node", out)
    package = json.loads((folder / "package.json").read_text())
    assert package["dependencies"] == {"onnxruntime-node": npm.VERSION}
    assert '"x": TypedTensor<"float32">' in (folder / package["types"]).read_text()


@pytest.mark.parametrize("form", FORMS)
def test_a_variant_for_a_gpu_is_not_packaged_for_a_cpu(form: str, artifact: Path, cli: Cli) -> None:
    session = artifact / "int8" / "session.json"
    session.write_text(session.read_text().replace('"cpu"', '"cuda"'))
    seal(artifact)
    ran = cli("package", artifact / "int8", "--as", form, "--no-check")
    if form in ("ort", "web", "c"):
        assert ran.code == 2
        assert f"is for cuda, and the form {form} runs on cpu alone: package it as onnx, node, triton" in ran.err
    else:
        assert ran.code == 0, ran.err
        assert "cuda" in (Path("packages") / f"centres-int8-{form}" / record.RECORD).read_text().lower()


def test_the_distribution_that_is_installed_is_on_record(
    artifact: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlc.packaging.form.runtime_distribution", lambda: ("onnxruntime-gpu", "1.32.0"))
    folder = compose([load_source(artifact / "int8")], "onnx", out, check=False).path
    assert folder is not None
    assert record.read(folder).runtime.name == "onnxruntime-gpu"
    assert "| onnxruntime-gpu 1.32.0 | MIT |" in (folder / "NOTICES.md").read_text()
    assert "pkg:pypi/onnxruntime-gpu@1.32.0" in (folder / "sbom.cdx.json").read_text()


def test_a_failing_variant_is_refused_and_marked_if_it_is_allowed(artifact: Path, cli: Cli, tmp_path: Path) -> None:
    set_verdict(artifact, "int8", "fail")
    ran = cli("package", artifact / "int8", "--as", "onnx", "-o", tmp_path / "out")
    assert ran.code == 2
    assert "fail: as the test wants it" in ran.err
    assert "--allow-failing" in ran.err
    assert not (tmp_path / "out").exists()
    ran = cli("package", artifact / "int8", "--as", "onnx", "-o", tmp_path / "out", "--allow-failing",
              "--format", "json")  # fmt: skip
    assert ran.code == 0, ran.err
    folder = tmp_path / "out" / "centres-int8-onnx"
    assert json.loads(ran.out)["path"] == str(folder)
    assert record.read(folder).verdict.status == "fail"
    assert "**This variant failed its gates**" in (folder / "README.md").read_text()


def test_a_damaged_artifact_is_not_packaged(artifact: Path, cli: Cli) -> None:
    (artifact / "int8" / "session.json").write_text("{}")
    ran = cli("package", artifact / "int8", "--as", "onnx")
    assert ran.code == 2
    assert "int8/session.json is changed" in ran.err


@pytest.mark.parametrize("form", REPLAYED)
def test_a_kernel_that_the_runtime_lacks_is_named_with_the_variant_that_avoids_it(
    form: str, artifact: Path, cli: Cli, tmp_path: Path
) -> None:
    def to_unknown(model: ir.Model) -> None:
        node = next(n for n in model.graph if n.op_type == "Softmax")
        node.op_type, node.domain = "QuickSoftmax", "com.microsoft"
        model.graph.opset_imports["com.microsoft"] = 1

    edit_graph(artifact, "int8", to_unknown)
    ran = cli("package", artifact / "int8", "--as", form, "-o", tmp_path / "out")
    assert ran.code == (2 if form == "ort" else 1)  # the file itself cannot be written
    assert "has no kernel for QuickSoftmax, which variant int8 uses; without it: fp32" in ran.out + ran.err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("form", ["node", "web"])
def test_a_model_too_new_for_a_runtime_says_what_that_takes(form: str, artifact: Path, cli: Cli) -> None:
    edit_graph(artifact, "int8", lambda model: setattr(model, "ir_version", 14))
    ran = cli("package", artifact / "int8", "--as", form, "--no-check")
    assert ran.code == 2
    assert "IR version 14" in ran.err
    assert "compile with -t" in ran.err


@pytest.mark.parametrize(("form", "tool"), [("node", "node"), ("web", "chromium"), ("c", "cmake")])
def test_a_missing_tool_says_what_to_install(
    form: str, tool: str, artifact: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if form == "web" and npm.present("onnxruntime-web") is None:
        pytest.skip("needs onnxruntime-web in $DLC_NODE_MODULES or the cache")
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = cli("package", artifact / "int8", "--as", form)
    assert ran.code == 3
    assert f"{tool} is not installed" in ran.err
    assert "apt-get install" in ran.err
    assert not list((tmp_path / "packages").glob("*"))


def test_fallbacks_go_where_the_program_chooses(artifact: Path, cli: Cli) -> None:
    ran = cli("package", artifact / "int8", "--as", "web", "--fallback", "fp32", "--no-check")
    assert ran.code == 2
    assert "the form web holds one variant; those that hold several: onnx, node, c" in ran.err
    ran = cli("package", artifact / "int8", "--as", "onnx", "--fallback", "int8")
    assert ran.code == 2
    assert "in the chain already" in ran.err


def test_an_existing_package_is_replaced_only_if_asked_and_only_if_it_is_one(artifact: Path, cli: Cli) -> None:
    assert cli("package", artifact / "fp32", "--as", "onnx", "--no-check").code == 0
    assert cli("package", artifact / "fp32", "--as", "onnx", "--no-check").code == 2
    assert cli("package", artifact / "fp32", "--as", "onnx", "--no-check", "--overwrite").code == 0
    (Path("packages") / "centres-fp32-onnx" / record.RECORD).unlink()
    ran = cli("package", artifact / "fp32", "--as", "onnx", "--no-check", "--overwrite")
    assert ran.code == 2
    assert "is not a package, so --overwrite leaves it alone" in ran.err


def triton_folder(artifact: Path, out: Path) -> tuple[Path, Path]:
    folder = as_package(artifact, "triton", out)
    return folder, folder / "model_repository" / "centres"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("dims: 128", "dims: 127", "the inputs of the graph are"),
        ("TYPE_FP32", "TYPE_FP16", "the inputs of the graph are"),
        ('name: "scores"', 'name: "other"', "the outputs of the graph are"),
        ('name: "centres"', 'name: "other"', "the model is called 'other' in a folder called 'centres'"),
        ("max_batch_size", "max_batch", "no field named"),
        ('key: "x"', 'key: "y"', "differ in ['x', 'y']"),
    ],
)
def test_triton_s_configuration_is_compared_with_the_graph(
    old: str, new: str, said: str, artifact: Path, out: Path
) -> None:
    folder, place = triton_folder(artifact, out)
    text = (place / "config.pbtxt").read_text()
    assert old in text
    (place / "config.pbtxt").write_text(text.replace(old, new))
    [proof] = load(FORMS["triton"])().check(folder)
    assert not proof.ok
    assert said in proof.detail


def test_triton_batches_up_to_what_the_recipe_allows_and_warms_up_with_one_example(artifact: Path, out: Path) -> None:
    folder, place = triton_folder(artifact, out)
    assert "max_batch_size: 64" in (place / "config.pbtxt").read_text()
    [(feeds, _), *_] = read_golden(artifact / "int8")
    assert (place / "warmup" / "0").read_bytes() == feeds["x"][:1].tobytes()
    (place / "warmup" / "0").write_bytes(bytes(511))
    [proof] = load(FORMS["triton"])().check(folder)
    assert "warm-up of 'x' holds 511 bytes, not 512" in proof.detail


@pytest.mark.parametrize("form", CHAINED)
def test_a_variant_that_the_package_does_not_hold_says_so(form: str, artifact: Path, out: Path) -> None:
    folder = as_package(artifact, form, out)
    package = record.read(folder)
    [link] = package.chain
    record.seal(folder, msgspec.structs.replace(package, chain=(msgspec.structs.replace(link, variant="int3"),)))
    [proof] = load(FORMS[form])().check(folder)
    assert not proof.ok
    assert proof.detail.endswith(": none has that name")


@needs["node"]
def test_node_takes_the_first_variant_that_fits(artifact: Path, out: Path) -> None:
    folder = with_fallback(artifact, "node", out).path
    assert folder is not None
    make_unfit(folder, "node", "int8")
    child = run_node(folder, "Model.load().then((model) => console.log(model.link.variant));")
    assert (child.stdout, child.returncode) == ("fp32\n", 0), child.stderr
    session = folder / "fp32" / "session.json"
    session.write_text(session.read_text().replace('"cpu"', '"webgl"'))
    child = run_node(folder, "Model.load().catch((error) => console.log(error instanceof UnfitError, error.message));")
    assert child.stdout.startswith(
        "true no variant of this package fits this machine: int8 needs one of no_such_isa, and"
    )
    assert "(it is none); fp32 needs webgl, this onnxruntime-node has " in child.stdout


@needs["node"]
def test_node_goes_on_if_a_provider_finds_no_device_and_reports_a_model_that_does_not_load(
    artifact: Path, out: Path
) -> None:
    folder = with_fallback(artifact, "node", out).path
    assert folder is not None
    (folder / "int8" / "model.onnx").write_bytes(b"no model")
    load_it = "Model.load().then((model) => console.log(model.link.variant), () => process.exit(7));"
    assert run_node(folder, load_it).returncode == 7, "what fails on the processor is an error"
    session = folder / "int8" / "session.json"
    listed_here = (
        "const ort = require('onnxruntime-node'); console.log(ort.listSupportedBackends().map((b) => b.name).join());"
    )
    others = [name for name in run_node(folder, listed_here).stdout.strip().split(",") if name != "cpu"]
    if not others:
        pytest.skip("needs an onnxruntime-node with another provider than the processor")
    session.write_text(session.read_text().replace('"cpu"', f'"{others[0]}"'))
    assert run_node(folder, load_it).stdout == "fp32\n"


def run_node(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    modules = npm.modules("onnxruntime-node", "onnxruntime-common")
    names = "const { Model, UnfitError } = require('./index.js');"
    return subprocess.run(
        [str(shutil.which("node")), "-e", names + code], cwd=folder, env={**os.environ, "NODE_PATH": str(modules)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "form", [pytest.param("node", marks=needs["node"]), pytest.param("c", marks=needs["c"]), "onnx"]
)
def test_a_system_that_does_not_tell_what_its_processor_has_is_refused(form: str, artifact: Path, out: Path) -> None:
    folder = as_package(as_if_for(artifact, ("avx512_vnni",)), form, out)
    if form == "c":
        path, old, new = folder / "model.c", "defined(__x86_64__)", "defined(__no_such_processor__)"
        path.write_text(path.read_text().replace("defined(__aarch64__)", new))
    else:
        path = folder / {"node": "machine.js", "onnx": "machine.py"}[form]
        old, new = "/proc/cpuinfo", "/no/such/file"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    [proof] = load(FORMS[form])().check(folder)
    assert not proof.ok
    assert ("which the system does not tell" if form != "c" else "needs 8-bit products") in proof.detail
    assert SATURATES in proof.detail


def test_a_provider_that_finds_no_device_is_not_taken_for_it(artifact: Path, out: Path) -> None:
    folder = with_fallback(artifact, "onnx", out).path
    assert folder is not None
    chain = json.loads((folder / "chain.json").read_text())
    chain[0]["provider"] = "CUDAExecutionProvider"
    (folder / "chain.json").write_text(json.dumps(chain))
    lie = (
        "import onnxruntime as o; o.get_available_providers = lambda: ['CUDAExecutionProvider', 'CPUExecutionProvider']"
    )
    said = run_python(folder, f"{lie}; from run import Model; print(Model().link['variant'])")
    assert said.splitlines()[-1] == "fp32"


def test_the_ort_form_s_proof_looks_at_the_processor_and_the_record_says_what_it_needs(
    artifact: Path, out: Path
) -> None:
    folder = as_package(as_if_for(artifact, ("avx512_vnni",)), "ort", out)
    note = "a runtime of your own does not look"
    assert any(note in each for each in record.read(folder).notes)
    assert note in (folder / "README.md").read_text()
    session = json.loads((folder / "session.json").read_text())
    assert session["isa"] == list(INTEGER_DOT)
    (folder / "session.json").write_text(json.dumps({**session, "isa": ["no_such_isa"]}))
    child = subprocess.run([sys.executable, "-B", "proof.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert child.returncode == 3
    assert "int8 needs one of no_such_isa, and this processor has none of them" in child.stderr


@needs["web"]
def test_the_browser_asks_for_no_instruction_set(artifact: Path, out: Path) -> None:
    source = load_source(as_if_for(artifact, ("avx512_vnni",)) / "int8")
    folder = compose([source], "web", out, check=False).path
    assert folder is not None
    [link] = record.read(folder).chain
    assert (link.isa, link.why) == ((), "")


def test_triton_says_what_its_server_does_not_look_at(artifact: Path, out: Path) -> None:
    as_if_for(artifact, ("avx512_vnni",))
    session = artifact / "int8" / "session.json"
    config = json.loads(session.read_text())
    kept = {"session.use_device_allocator_for_initializers": "1"}
    config |= {"entries": {"session.disable_prepacking": "1", **kept}, "disabled_optimizers": ["GeluFusion"]}
    session.write_text(json.dumps(config))
    seal(artifact)
    folder, place = triton_folder(artifact, out)
    notes = "\n".join(record.read(folder).notes)
    assert "does not take session.disable_prepacking, optimization.disable_specified_optimizers: it runs" in notes
    assert "the server does not look" in notes
    assert next(iter(kept)) in (place / "config.pbtxt").read_text()


def test_triton_takes_inputs_with_any_name(artifact: Path, out: Path) -> None:
    edit_graph(artifact, "int8", lambda model: setattr(model.graph.inputs[0], "name", "images/x"))
    vectors = [({"images/x": feeds["x"]}, outputs) for feeds, outputs in read_golden(artifact / "int8")]
    (artifact / "int8" / GOLDEN).unlink()
    write_golden(artifact / "int8", vectors)  # type: ignore[arg-type]
    seal(artifact)
    _, place = triton_folder(artifact, out)
    assert [p.name for p in (place / "warmup").iterdir()] == ["0"]


@needs["c"]
def test_the_c_headers_hold_the_plan_and_the_golden_tensors(artifact: Path, out: Path) -> None:
    folder = as_package(artifact, "c", out)
    plan = load_source(artifact / "int8").plan
    assert plan is not None
    header = (folder / "memory_plan.h").read_text()
    assert f"#define PLAN_ARENA_BYTES {plan.arena_bytes}u" in header
    assert all(f'{{"{b.name}", {b.offset}, {b.size}, {b.first}, {b.last}}}' in header for b in plan.buffers)
    strict = ("-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-unused-variable")
    subprocess.run(
        ["gcc", *strict, "-include", "memory_plan.h", "model.c"], cwd=folder, check=True, capture_output=True
    )


def test_the_model_s_licence_is_taken_along(artifact: Path, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "LICENCE.txt").write_text("do as you like")
    ran = cli("package", artifact / "fp32", "--as", "onnx", "--no-check", "--licence", tmp_path / "LICENCE.txt")
    assert ran.code == 0, ran.err
    folder = Path("packages/centres-fp32-onnx")
    assert (folder / "MODEL-LICENCE").read_text() == "do as you like"
    assert "see MODEL-LICENCE" in (folder / "NOTICES.md").read_text()
    ran = cli("package", artifact / "fp32", "--as", "onnx", "--licence", tmp_path / "none", "-o", "other")
    assert ran.code == 2
    assert "there is no such file" in ran.err


def test_a_golden_tensor_that_other_languages_do_not_take_is_refused(artifact: Path, cli: Cli) -> None:
    vectors = [({"x": feeds["x"].astype(np.complex64)}, out) for feeds, out in read_golden(artifact / "int8")]
    (artifact / "int8" / GOLDEN).unlink()
    write_golden(artifact / "int8", vectors)  # type: ignore[arg-type]
    seal(artifact)
    ran = cli("package", artifact / "int8", "--as", "onnx")
    assert ran.code == 2
    assert "tensor 'x' is of type complex64" in ran.err
