"""Every command that the docs show is run, in one folder, in the order of the pages below."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from dlc.packaging import npm
from dlc.packaging.onnx_form import PYTHON, environment
from tests.cli.conftest import Cli, cli
from tests.packaging.conftest import set_verdict
from tests.passes.weights import normal, weighted

__all__ = ["cli"]  # a fixture

DOCS = Path(__file__).parent.parent / "docs"
PAGES = (
    "compile", "verify", "bench", "inspect", "compare", "doctor", "zoo", "target", "data", "debug", "gate", "plan",
    "package", "package-onnx", "package-ort", "package-web", "package-node", "package-c", "package-triton",
    "package-bundle", "registry",
)  # fmt: skip
FORM_PAGES = [page for page in PAGES if page.startswith("package")]
NEEDS = {
    "package-web": ("chromium", "onnxruntime-web"),
    "package-node": ("node", "onnxruntime-node"),
    "package-c": ("cmake", "gcc"),
    "package-bundle": ("openssl", "cryptography"),
}
"""Programs, modules and npm packages that a page's commands run, where a machine may lack them."""


def is_here(name: str) -> bool:
    return bool(shutil.which(name) or npm.present(name) or importlib.util.find_spec(name))


def text(page: str) -> str:
    return (DOCS / f"{page}.md").read_text()


def commands(page: str) -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", text(page), re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docs")


@pytest.mark.parametrize(("page", "command"), [(page, c) for page in PAGES for c in commands(page)])
def test_documented_command_runs(page: str, command: str, folder: Path) -> None:
    if missing := [name for name in NEEDS.get(page, ()) if not is_here(name)]:
        pytest.skip(f"needs {', '.join(missing)}")
    if page.startswith("package"):
        for precision in ("fp32", "int8"):  # what a noisy machine makes of latency is not the point
            set_verdict(folder / "build" / "digits-cnn", precision, "pass")
    program, *arguments = shlex.split(command)
    if program == "openssl":
        subprocess.run([program, *arguments], cwd=folder, check=True, capture_output=True)
        return
    assert program == "dlc"
    child = subprocess.run(
        [sys.executable, "-m", "dlc", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    judging = {"compile", "gate"} & {*arguments}
    verdicts = (0, 1, 5) if judging else (0,)  # what a noisy machine makes of latency is not the point
    assert child.returncode in verdicts, child.stdout + child.stderr
    assert child.stdout.strip()


HEADED = """<ir_version: 10, opset_import: ["": 20]> g (int64[batch, 8] tokens) => (float[batch, 8, 64] y) {
    e = Gather(table, tokens)  h = MatMul(e, w)  r = Relu(h)  y = MatMul(r, v)
}"""


def test_the_options_of_quantization_do_what_the_page_says(tmp_path: Path, cli: Cli) -> None:
    import onnx_ir as ir

    weights = {"table": normal(64, 64), "w": normal(64, 64, seed=1), "v": normal(64, 64, seed=2)}
    inputs = "".join(f", float[64, 64] {name}" for name in weights)
    model = weighted(HEADED.replace("tokens) =>", f"tokens{inputs}) =>"), weights, header="")
    for node, name in zip(model.graph, ("/Gather", "/body/MatMul", "/body/Relu", "/head/MatMul"), strict=True):
        node.name = name
    ir.save(model, tmp_path / "headed.onnx")
    [options] = [each for each in blocks("quantization", "toml") if "[int4]" in each]
    (tmp_path / "recipe.toml").write_text(options + "[dims]\nbatch = { typical = 2 }\n")
    ran = cli("compile", "headed.onnx", "-r", "recipe.toml", "--format", "json")
    assert ran.judged, ran.err
    fp16, int8, int4 = (each["quantized"] for each in json.loads(ran.out)["variants"])
    assert [each["node"] for each in fp16["left"]] == ["/head/MatMul"]
    assert "/head/MatMul" in [each["node"] for each in int8["left"]]
    assert [each["node"] for each in int4["left"]] == ["/Gather"]
    again = cli("compile", "headed.onnx", "--variants", "int4", "--exclude", "/haed/*", "-o", "again")
    assert again.code == 2
    assert "the nearest are '/head/MatMul'" in again.err
    again = cli("compile", "headed.onnx", "--variants", "fp32", "--exclude", "Gather", "-o", "again")
    assert again.code == 2
    assert "add one to --variants" in again.err
    again = cli(
        "compile", "headed.onnx", "--variants", "int4", "--exclude", "/head/*", "--format", "json", "-o", "again"
    )
    assert again.judged, again.err
    assert [each["node"] for each in json.loads(again.out)["variants"][0]["quantized"]["left"]] == ["/head/MatMul"]


def test_every_verb_has_a_page() -> None:
    from dlc.cli import VERBS

    assert {page for page in VERBS if commands(page)} == set(VERBS)


SQUARED = """fits: [None, 'the exponent is 3, not 2']
ops: ['Mul', 'Pow', 'Abs'] True
"""


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text(page), re.DOTALL)


@pytest.mark.parametrize(
    ("page", "nth", "said"),
    [
        ("compile", 0, "VerdictRecord"),
        ("passes", 0, "True ['Abs']"),
        ("passes", 1, SQUARED),
        ("quantization", 0, "[1.0, 50.0]"),
    ],
)
def test_python_example_runs(page: str, nth: int, said: str, folder: Path) -> None:
    code = blocks(page, "python")[nth]
    child = subprocess.run(
        [sys.executable, "-c", code.replace('"build"', '"build-api"')],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    assert said in child.stdout


Shell: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def shell(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """Run a script where the commands ran; ``python`` is one that sees nothing but onnxruntime and numpy."""
    programs = tmp_path_factory.mktemp("bin")
    with environment() as variables:
        python = f"PYTHONPATH={variables['PYTHONPATH']} exec {shlex.join(PYTHON)}"
        for name, starts in (("python", python), ("dlc", f"exec {sys.executable} -m dlc")):
            (programs / name).write_text(f'#!/bin/sh\n{starts} "$@"\n')
            (programs / name).chmod(0o755)

        def run(script: str, **more: str) -> subprocess.CompletedProcess[str]:
            path = f"{programs}{os.pathsep}{os.environ['PATH']}"
            return subprocess.run(
                ["sh", "-eu", "-c", script], cwd=folder, env={**os.environ, "PATH": path, **more}, check=False,
                capture_output=True, text=True,
            )  # fmt: skip

        yield run


@pytest.mark.parametrize(("what", "code"), [("held out", 0), ("inverted", 1), ("noisy", 1)])
def test_the_packaged_runner_finds_drift_as_the_page_says(what: str, code: int, folder: Path, shell: Shell) -> None:
    from dlc.models import digits

    scans = digits.load().held_out.images
    noise = np.random.default_rng(0).normal(scale=0.1, size=scans.shape).astype(np.float32)
    np.savez(folder / "new.npz", image={"held out": scans, "inverted": 1 - scans, "noisy": scans + noise}[what])
    [use], [script] = blocks("package-onnx", "python"), blocks("package-onnx", "sh")
    (folder / "use.py").write_text(use)
    observe, *checks = script.splitlines()
    ran = shell(observe)
    assert ran.returncode == 0, ran.stderr
    for line in checks:
        ran = shell(line)
        assert ran.returncode == code, ran.stdout + ran.stderr


@pytest.mark.skipif(not all(map(is_here, NEEDS["package-c"])), reason="needs cmake and gcc")
def test_the_self_test_is_built_and_run_as_the_page_says(shell: Shell) -> None:
    [script] = blocks("package-c", "sh")
    ran = shell(script)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.skipif(not all(map(is_here, NEEDS["package-node"])), reason="needs node, and onnxruntime-node")
def test_the_script_for_node_runs_as_the_page_says(folder: Path, shell: Shell) -> None:
    """With the package, and what it depends on, where ``npm install`` would put them."""
    [code], [script] = blocks("package-node", "js"), blocks("package-node", "sh")
    (folder / "use.mjs").write_text(code)
    (folder / "node_modules").mkdir(exist_ok=True)
    (folder / "node_modules" / "digits-cnn-int8").symlink_to(folder / "packages" / "digits-cnn-int8-node")
    ran = shell(script, NODE_PATH=str(npm.modules("onnxruntime-node", "onnxruntime-common")))
    assert ran.returncode == 0, ran.stderr


def test_every_block_of_a_form_s_page_is_run() -> None:
    """Those of ``sh``, ``js`` and ``python`` by the tests above, those of ``console`` like all such commands."""
    found = {(page, kind) for page in FORM_PAGES for kind in re.findall(r"^```(\w+)$", text(page), re.MULTILINE)}
    assert found - {(page, "console") for page in FORM_PAGES} == {
        ("package-onnx", "python"), ("package-onnx", "sh"), ("package-c", "sh"), ("package-node", "js"),
        ("package-node", "sh"),
    }  # fmt: skip


def test_the_broken_pass_is_found_as_the_page_says(tmp_path: Path) -> None:
    page = (DOCS / "debug.md").read_text()
    [code], [stated] = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("python", "text"))
    (tmp_path / "clip.py").write_text(code)
    [command] = re.findall(r"`dlc (debug bisect .*? clip:\w+)`", page)
    child = subprocess.run(
        [sys.executable, "-m", "dlc", *command.split()], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert child.returncode == 4, child.stderr
    assert without_fractions(child.stdout) == without_fractions(stated)


def test_the_model_that_fails_is_reduced_as_the_page_says(tmp_path: Path, cli: Cli) -> None:
    import onnx_ir as ir

    [text], [lines] = blocks("debug", "onnx"), blocks("debug", "sh")
    ir.save(ir.from_onnx_text(text), tmp_path / "roots.onnx")
    for line in lines.splitlines():
        ran = cli(*shlex.split(line)[1:])
        assert ran.code == 0, ran.err
        assert "4 nodes reduced to 1" in ran.out
        assert "Sqrt" in ran.out


def without_fractions(text: str) -> str:
    """Leave out what another machine may round otherwise."""
    return re.sub(r"\d+\.\d+(e-?\d+)?", "…", text)


def test_every_rewrite_is_listed_as_it_describes_itself() -> None:
    from dlc.passes.naming import table

    assert table() in (DOCS / "rewrites.md").read_text(), "python -m dlc.passes.naming prints the table"


def test_the_rule_that_the_docs_show_joins(tmp_path: Path, cli: Cli) -> None:
    import onnx_ir as ir

    text = """<ir_version: 10, opset_import: ["": 20]> g (float[batch, 256] x) => (float[batch, 256] y)
        { s = Sigmoid(x)  m = Mul(x, s)  y = Tanh(m) }"""
    ir.save(ir.from_onnx_text(text), tmp_path / "model.onnx")
    [rules], [recipe, *_] = blocks("rewrites", "python"), blocks("rewrites", "toml")
    (tmp_path / "my_rules.py").write_text(rules)
    (tmp_path / "recipe.toml").write_text(recipe)
    explain, compile_it, profile = (shlex.split(line)[1:] for line in commands("rewrites"))
    ran = cli(*explain)
    assert ran.code == 0, ran.err
    assert "1 sites" in ran.out
    ran = cli(*compile_it, "-v")
    assert ran.judged, ran.err
    assert "silu-to-quick-gelu expected at 1 places, found at 1" in ran.out
    ran = cli(*profile)
    assert ran.code == 0, ran.err


def test_what_the_gate_s_page_shows_is_valid(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML to read the examples")
    from click.testing import CliRunner

    from dlc.cli.gate import command as gate
    from dlc.config import read
    from dlc.sources.recipe_toml import read as read_recipe

    recipe, config = blocks("gate", "toml")
    (tmp_path / "recipe.toml").write_text(recipe)
    (tmp_path / "dlc.toml").write_text(config)
    assert read_recipe(tmp_path / "recipe.toml").metric == "top1"
    assert read(tmp_path / "dlc.toml").model("digits-cnn").variants == ("int8",)
    github, gitlab = (yaml.safe_load(each) for each in blocks("gate", "yaml"))
    action = yaml.safe_load((DOCS.parent / "action.yml").read_text())
    assert set(github[-1]["with"]) <= set(action["inputs"])
    options = CliRunner().invoke(gate, ["--help"]).output
    [line] = [each for each in gitlab["gate"]["script"] if each.startswith("dlc gate")]
    assert all(word in options for word in shlex.split(line) if word.startswith("--"))


def test_what_recipes_may_declare_in_toml_is_valid(tmp_path: Path) -> None:
    from dlc.sources.recipe_files import declared

    (tmp_path / "my_rules.py").write_text(blocks("rewrites", "python")[0])
    np.savez(tmp_path / "calibration.npz", image=np.zeros((2, 4), np.float32))
    for page in ("recipes", "rewrites", "data", "quantization"):
        for block in blocks(page, "toml"):
            (tmp_path / "recipe.toml").write_text(block)
            recipe = declared(str(tmp_path / "recipe.toml"), Path("model.onnx"))
            assert all(getattr(recipe, key) for key in tomllib.loads(block))
