"""dlc debug bisect from the command line: a pass of the user's own that is wrong, and all of ours on the zoo."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir
import pytest

from dlc.passes.base import Rewritten
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.edit import Edit
from dlc.passes.rewrite import Rewrite
from tests.cli.conftest import Cli

ROOT = Path(__file__).parent.parent.parent

CHAIN = """<ir_version: 10, opset_import: ["": 20]>
g (float[batch, 4] x) => (float[batch, 4] y)
{ a = Neg(x)  b = Relu(a)  c = Exp(b)  d = Relu(c)  y = Tanh(d) }"""

OWN = """
from dataclasses import dataclass
from typing import ClassVar

from dlc.passes.rewrite import Rewrite

@dataclass(frozen=True)
class Own(Rewrite):
    name: ClassVar[str] = "own"
    wrong: str = ""

    def candidates(self, graph):
        return (n for n in graph if n.op_type == "Relu")

    def rewrite(self, node, edit):
        x, y = node.inputs[0], node.outputs[0]
        op = "Neg" if y.name == self.wrong else "Relu"
        new = edit.node(op, [x], node.name + ".new", dtype=y.dtype, shape=y.shape)
        edit.replace(node, new)

broken = Own(wrong="b")
sound = Own
number = 5
"""


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    ir.save(ir.from_onnx_text(CHAIN), tmp_path / "chain.onnx")
    return tmp_path / "chain.onnx"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module of the user's in the current folder, of a name that no other test imports."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"own_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(OWN)
    return name


def test_nothing_differs(cli: Cli, chain: Path, own: str) -> None:
    ran = cli("debug", "bisect", chain, "--pass", f"{own}:sound")
    assert ran.code == 0, ran.err
    assert "nothing differs: 2 passes, 2 sites" in ran.out
    assert "batch=8; batch=9; batch=1" in ran.out


def test_all_of_ours_on_a_zoo_model(cli: Cli) -> None:
    ran = cli("debug", "bisect", "digits-cnn", "--seed", "3", "--format", "json")
    assert ran.code == 0, ran.err
    said = json.loads(ran.out)
    assert (said["seed"], said["bisection"]["culprit"], said["way_out"]) == (3, None, "")
    assert {s["name"] for s in said["bisection"]["steps"] if s["modified"]} >= {"fold-batch-norm", "pool-mean"}
    assert all(s["apart"] <= s["bound"] for s in said["bisection"]["steps"])


def test_a_broken_pass_is_named_with_its_site_and_value(cli: Cli, chain: Path, own: str) -> None:
    ran = cli("debug", "bisect", chain, "--pass", f"{own}:broken", "--seed", "2")
    assert ran.code == 4
    lines = ran.out.splitlines()
    assert lines[0].startswith("pass own changes the numbers: output 'y' differs by ")
    assert "differs at batch=8; batch=9; batch=1; holds at none; seed 2" in ran.out
    assert "site node_Relu (Relu), one of 2" in ran.out
    assert "first value that differs: 'b', computed by node_Relu.new (Neg)" in ran.out
    assert "bug of dlc" not in ran.out


def test_the_same_as_json(cli: Cli, chain: Path, own: str) -> None:
    ran = cli("debug", "bisect", chain, "--pass", f"{own}:broken", "--dim", "batch=2", "--format", "json")
    assert ran.code == 4
    found = json.loads(ran.out)["bisection"]["culprit"]
    assert (found["name"], [s["node"] for s in found["sites"]]) == ("own", ["node_Relu"])
    assert found["differs_at"] == ["batch=2"]
    assert found["divergence"]["first"]["value"] == "b"


def test_an_artifact_is_a_model(cli: Cli, model: Path, recipe: Path) -> None:
    assert cli("compile", model, "-r", recipe, "--variants", "fp32", "-o", "build").judged
    ran = cli("debug", "bisect", "build/centres")
    assert ran.code == 0, ran.err
    assert "batch=4; batch=5; batch=1" in ran.out
    ran = cli("debug", "bisect", "build/centres", "-r", recipe)
    assert ran.code == 2
    assert "is an artifact" in ran.err


def test_calibration_data_is_run_too(cli: Cli, model: Path, recipe: Path) -> None:
    ran = cli("debug", "bisect", model, "-r", recipe, "--pass", "gelu")
    assert ran.code == 0, ran.err
    assert "batch=4; batch=5; batch=1; data set" in ran.out


@pytest.mark.parametrize(("arguments", "says"), [
    (("--pass", "atention"), "did you mean 'fuse-attention'"),
    (("--pass", "quantize-static"), "changes the numbers by design"),
    (("--pass", "no_such_module:Pass"), "No module named 'no_such_module'"),
    (("--pass", "OWN:nothing"), "has no 'nothing'"),
    (("--pass", "OWN:number"), "is no pass: it is int"),
    (("--variant", "int8"), "int8 changes the numbers by design"),
    (("--dim", "btach=2"), "did you mean 'batch'"),
    (("--dim", "batch=0"), "positive size"),
])  # fmt: skip
def test_bad_input(cli: Cli, chain: Path, own: str, arguments: tuple[str, ...], says: str) -> None:
    ran = cli("debug", "bisect", chain, *(a.replace("OWN", own) for a in arguments))
    assert ran.code == 2
    assert says in ran.err


def test_a_model_that_is_none(cli: Cli) -> None:
    ran = cli("debug", "bisect", "missing.onnx")
    assert ran.code == 2
    assert "missing.onnx" in ran.err


@dataclass(frozen=True)
class Renames(Rewrite):
    """A rewrite of ours, as it were, that breaks the interface wherever it is tried."""

    name: ClassVar[str] = "fuse-gelu"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return (n for n in graph if n.op_type == "Exp")

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        x, y = node.inputs[0], node.outputs[0]
        edit.replace(node, edit.node("Exp", [x], f"{node.name}.new", dtype=y.dtype, shape=y.shape))
        edit.model.graph.outputs[0].name = "lost"
        return None


def test_a_compile_that_leaves_a_pass_out_says_how_to_find_the_site(
    cli: Cli, chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlc.compiler.rewrites", lambda *_: (Renames(),))
    ran = cli("compile", chain.name, "--variants", "fp32", "--check-each-pass")
    assert ran.code == 4
    assert "error: pass fuse-gelu: changed the model's interface" in ran.err
    assert ran.err.splitlines()[-1] == "find the site: dlc debug bisect chain.onnx"


@dataclass(frozen=True)
class LosesOutput(Canonicalize):
    """A canonical form that the compile cannot do without."""

    def call(self, model: ir.Model) -> Rewritten:
        model.graph.outputs[0].name = "lost"
        return Rewritten(model, modified=True)


def test_a_compile_that_ends_says_so_too(cli: Cli, chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlc.stages.rewriting.Canonicalize", LosesOutput)
    ran = cli("compile", chain.name, "--variants", "fp32")
    assert ran.code == 4
    assert ran.err.splitlines()[-1] == "find the site: dlc debug bisect chain.onnx"


def test_help_lists_every_rewrite(cli: Cli) -> None:
    from dlc.stages.defaults import rewrites
    from dlc.target import detect

    for verb in (("debug", "bisect"), ("inspect",)):
        words = cli(*verb, "--help").out.split()
        assert {r.name for r in rewrites(detect())} <= set(words)


def test_works_without_torch(chain: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"from dlc.cli import run\nsys.exit(run(['debug', 'bisect', {str(chain)!r}]))"
    )
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
