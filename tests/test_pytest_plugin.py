"""The plugin in a pytest of its own, as users run it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc.config import find
from dlc.gate import testing
from tests.cli.conftest import RECIPE, classifier, examples, spoil

ROOT = Path(__file__).parent.parent
TEST = """
def test_int8(dlc_gate):
    outcome = dlc_gate("{source}", variant="int8")
    assert outcome.now.model == "centres"
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a recipe and its data, whose test has run once and left its artifact and its baseline."""
    folder = tmp_path_factory.mktemp("plugin")
    ir.save(classifier(), folder / "centres.onnx")
    for name, seed in (("calibration", 1), ("evaluation", 2)):
        x, labels = examples(600, seed)
        np.savez(folder / f"{name}.npz", x=x, label=labels)
    (folder / "recipe.toml").write_text('name = "centres"\nsource = "centres.onnx"\n' + RECIPE)
    (folder / "test_models.py").write_text(TEST.format(source="recipe.toml"))
    code, out = run(folder, "--dlc-update-baseline", "--basetemp", str(folder / "scratch"))
    assert code == 0, out
    [made] = (folder / "scratch" / "dlc").glob("*/fp32-int8/centres")
    shutil.copytree(made, folder / "artifact")
    (folder / "test_models.py").write_text(TEST.format(source="artifact"))
    (folder / "dlc.toml").write_text('[models.centres]\nrecipe = "recipe.toml"\n')
    return folder


@pytest.fixture
def repository(compiled: Path, tmp_path: Path) -> Path:
    shutil.copytree(compiled, tmp_path / "r", ignore=shutil.ignore_patterns("scratch"))
    return tmp_path / "r"


def run(folder: Path, *options: str) -> tuple[int, str]:
    command = [
        sys.executable, "-m", "pytest", "-p", "dlc.pytest_plugin", "-p", "no:cacheprovider", "-q", "-rs",
        f"--rootdir={folder}", *options,
    ]  # fmt: skip
    environment = {
        "PYTHONPATH": str(ROOT),
        "DLC_CACHE_DIR": str(folder / "cache"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stdout + done.stderr


def test_baselines_are_written_where_they_are_looked_for(compiled: Path) -> None:
    assert [p.name for p in (compiled / "baselines").iterdir()] == ["centres-int8.json"]


def test_what_did_not_change_does_not_fail(repository: Path) -> None:
    code, out = run(repository)
    assert code == 0, out
    assert "1 passed" in out or "latency since baseline" in out  # a busy machine makes it inconclusive: skipped


def test_two_sources_of_one_name_are_two_artifacts(
    compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLC_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(compiled / "recipe.toml", tmp_path / name)
        shutil.copy(compiled / "centres.onnx", tmp_path / name)
        for data in compiled.glob("*.npz"):
            shutil.copy(data, tmp_path / name)
    made = [testing.artifact_of(f"{name}/recipe.toml", "int8", tmp_path, tmp_path / "scratch", find(start=tmp_path))
            for name in ("a", "b", "a")]  # fmt: skip
    paths = [artifact.path for artifact, _ in made]
    assert paths[0] == paths[2] != paths[1]


def test_without_a_baseline_the_way_out_is_named(repository: Path) -> None:
    shutil.rmtree(repository / "baselines")
    code, out = run(repository)
    assert code == 1
    assert "--update-baseline" in out


def test_a_failing_gate_fails_the_test_with_its_line(repository: Path) -> None:
    (repository / "dlc.toml").write_text(
        '[models.centres]\nrecipe = "recipe.toml"\ngates = { max_size_ratio = 0.01 }\n'
    )
    code, out = run(repository)
    assert code == 1
    assert "fail: int8/size: " in out
    assert "Traceback" not in out


def test_bisect_says_what_is_to_blame(repository: Path) -> None:
    """The files were altered after the compile: what is compiled anew, of the same graph, is as it was."""
    spoil(repository / "artifact", "int8")
    code, out = run(repository, "--dlc-bisect")
    assert code == 1
    assert "fail: int8/accuracy since baseline: top1" in out
    assert "undone: rebuilt with nothing undone: the gate holds" in out


def test_a_configuration_can_be_named(repository: Path) -> None:
    (repository / "strict.toml").write_text(
        '[models.centres]\nrecipe = "recipe.toml"\ngates = { max_size_ratio = 0.01 }\n'
    )
    code, out = run(repository, "--dlc-config", "strict.toml")
    assert code == 1
    assert "fail: int8/size: " in out
    code, out = run(repository, "--dlc-config", "none.toml")
    assert code == 1
    assert "RecipeError: none.toml: No such file" in out


def test_options_that_contradict_each_other_are_refused(repository: Path) -> None:
    code, out = run(repository, "--dlc-bisect", "--dlc-update-baseline")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "leave one out" in out


def test_an_inconclusive_gate_skips_the_test_with_its_line(repository: Path) -> None:
    x, labels = examples(60, 2)
    np.savez(repository / "evaluation.npz", x=x, label=labels)
    code, out = run(repository)
    assert code == 0, out
    assert "1 skipped" in out
    assert "60 examples cannot show that a margin of" in out


def test_pytest_starts_without_anything_heavy() -> None:
    heavy = ["numpy", "onnx", "onnx_ir", "onnxruntime", "msgspec", "scipy", "torch"]
    code = f"import sys, dlc.pytest_plugin; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_package_declares_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"dlc": "dlc.pytest_plugin"}
