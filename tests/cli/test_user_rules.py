"""A user's own rules, from the command line: measured, explained, profiled; wrong ones are the user's to mend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from tests.cli.conftest import Cli
from tests.stages.test_rewriting import detours

RULES = """
from onnxscript.rewriter import RewriteRule

def detour(op, x):
    return op.Asinh(op.Sinh(x))

def straight(op, x):
    return op.Sum(x)

def wrong(op, x):
    return op.Neg(x)

def crash(op, x):
    return [op.Sum(x)][1]

rule = RewriteRule(detour, straight, name="no-detour")
wrong = RewriteRule(detour, wrong, name="wrong-detour")
crash = RewriteRule(detour, crash, name="crash-detour")
"""


@pytest.fixture(autouse=True)
def detour(tmp_path: Path) -> Path:
    """Write ``detours.onnx``, with three detours, and ``my_rules.py``; return a recipe with the right rule."""
    ir.save(detours(3), tmp_path / "detours.onnx")
    (tmp_path / "my_rules.py").write_text(RULES)
    return recipe(tmp_path, "rule", "[expect_fusions]\nno-detour = 3")


def recipe(folder: Path, name: str, more: str = "") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(f"variants = ['fp32']\nrewrites = ['my_rules.py:{name}']\n{more}")
    return path


def manifest(folder: Path) -> Any:
    return json.loads((folder / "build/detours/manifest.json").read_text())


def test_a_rule_is_measured_applied_and_on_record(cli: Cli, detour: Path, tmp_path: Path) -> None:
    ran = cli("compile", "detours.onnx", "-r", detour, "-o", "build", "-v")
    assert ran.judged, ran.err
    assert "fp32: pass: no-detour expected at 3 places, found at 3 (3 applied)" in ran.out
    [own] = [p for p in manifest(tmp_path)["variants"][0]["passes"] if p["name"] == "no-detour"]
    assert (own["applied"], own["skipped"]) == (3, 0)
    assert all(0 < site["ratio"] < 1 for site in own["sites"])
    assert manifest(tmp_path)["expect_fusions"] == [
        {"rewrite": "no-detour", "expected": 3, "found": 3, "there": 0, "applied": 3, "reasons": []}
    ]
    assert "Sinh" not in {n.op_type for n in ir.load(tmp_path / "build/detours/fp32/model.onnx").graph}
    assert cli("verify", "build/detours").code == 0


def test_fewer_places_than_expected_fail_the_gate_and_the_artifact_stays(cli: Cli, tmp_path: Path) -> None:
    more = recipe(tmp_path, "rule", "expect_fusions = { no-detour = 4, attention = 1 }")
    ran = cli("compile", "detours.onnx", "-r", more, "-o", "build")
    assert ran.code == 1, ran.err
    assert "fp32: fail: no-detour expected at 4 places, found at 3 (3 applied)" in ran.out
    assert (
        "fp32: fail: fuse-attention expected at 1 places, found at 0 (0 applied); "
        "elsewhere: softmax is not over the last of three or four axes (1 places)"
    ) in ran.out
    assert manifest(tmp_path)["variants"][0]["verdict"]["status"] == "fail"
    assert cli("verify", "build/detours").code == 0


def test_a_rule_that_changes_the_numbers_is_left_out_with_exit_code_2(cli: Cli, tmp_path: Path) -> None:
    ran = cli("compile", "detours.onnx", "-r", recipe(tmp_path, "wrong"), "-o", "build")
    assert ran.code == 2
    assert "error: rewrite 'wrong-detour' at node 'node_Asinh' (Asinh): changed output 'y at batch=" in ran.err
    assert "a bug" not in ran.err
    [own] = [p for p in manifest(tmp_path)["variants"][0]["passes"] if p["name"] == "wrong-detour"]
    assert own["applied"] == 0
    assert all(site["reason"].startswith("left out: changed output") for site in own["sites"])
    assert "Neg" not in {n.op_type for n in ir.load(tmp_path / "build/detours/fp32/model.onnx").graph}
    assert cli("verify", "build/detours").code == 0


def test_a_rule_that_raises_names_rule_node_and_line(cli: Cli, tmp_path: Path) -> None:
    line = RULES.splitlines().index("    return [op.Sum(x)][1]") + 1
    says = f"error: rewrite 'crash-detour' at node 'node_Asinh' (Asinh): my_rules.py:{line}: IndexError: "
    crash = recipe(tmp_path, "crash")
    for arguments in (("compile", "-o", "build"), ("inspect", "--explain", "detour", "--no-measure")):
        verb, *options = arguments
        ran = cli(verb, "detours.onnx", "-r", crash, *options)
        assert ran.code == 2
        assert says in ran.err


@pytest.mark.parametrize("word", ["no-detour", "detour"])
def test_inspect_explains_a_rule(cli: Cli, detour: Path, word: str) -> None:
    ran = cli("inspect", "detours.onnx", "-r", detour, "--explain", word, "--dim", "batch=8", "--format", "json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)["sites"]
    assert [site["reason"] for site in found] == [None] * 3
    assert all(site["ratio"] < 1 for site in found)


def test_inspect_tells_a_wrong_rule(cli: Cli, tmp_path: Path) -> None:
    ran = cli("inspect", "detours.onnx", "-r", recipe(tmp_path, "wrong"), "--explain", "wrong-detour")
    assert ran.code == 2
    assert "rewrite 'wrong-detour' at node 'node_Asinh' (Asinh): changed output" in ran.err


def test_inspect_takes_sizes_from_the_recipe_and_the_command_line_goes_first(cli: Cli, tmp_path: Path) -> None:
    sized = recipe(tmp_path, "rule", "dims.batch = { max = 64, typical = 8 }")
    for arguments, size in (((), 8), (("--dim", "batch=2"), 2)):
        ran = cli("inspect", "detours.onnx", "-r", sized, "--format", "json", *arguments)
        assert json.loads(ran.out)["sizes"] == {"batch": size}


def test_without_a_recipe_the_rule_is_unknown(cli: Cli) -> None:
    ran = cli("inspect", "detours.onnx", "--explain", "no-detour")
    assert ran.code == 2
    assert "no rewrite is named 'no-detour'" in ran.err


def test_profile_measures_the_rules_of_a_recipe(cli: Cli, detour: Path, tmp_path: Path) -> None:
    assert cli("target", "profile", "detours.onnx", "-o", "without.json").code == 0
    ran = cli("target", "profile", "detours.onnx", "-r", detour, "-o", "with.json")
    assert ran.code == 0, ran.err
    without, costs = (json.loads((tmp_path / f"{name}.json").read_text())["costs"] for name in ("without", "with"))
    assert without.keys() < costs.keys()
    wrong = recipe(tmp_path, "wrong")
    ran = cli("target", "profile", "detours.onnx", "-r", wrong, "-o", "wrong.json")
    assert ran.code == 2
    assert "rewrite 'wrong-detour' at node" in ran.err
    assert (tmp_path / "wrong.json").exists()
