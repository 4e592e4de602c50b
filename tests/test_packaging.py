"""The package as users get it: one top-level name, every folder in it, a light import."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import dlc

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SKIP = shutil.ignore_patterns(".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")


def test_packages_are_the_folders_on_disk() -> None:
    inner = {f"dlc.{p.parent.name}" for p in (ROOT / "dlc").glob("*/__init__.py")}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == {"dlc", *inner}


def test_wheel_holds_one_top_level_name_and_every_module(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, symlinks=True, ignore=SKIP)
    for link in ("passes", "runtimes", "models"):
        (source / "dlc" / link).unlink()  # a clone without symbolic links must build the same
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names} == {"dlc", f"dlc-{dlc.__version__}.dist-info"}
    modules = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("dlc/**/*.py")}
    modules |= {
        f"dlc/{p.relative_to(ROOT).as_posix()}"
        for d in ("passes", "runtimes", "models")
        for p in (ROOT / d).glob("*.py")
    }
    assert modules <= set(names)
    assert {n for n in names if n.endswith((".safetensors", ".j2", ".c", "py.typed"))} >= {
        "dlc/models/weights/digits-cnn.safetensors",
        "dlc/py.typed",
        "dlc/report/report.html.j2",
        "dlc/runtimes/planned_allocator.c",
    }


def test_shop_window() -> None:
    assert dlc.__all__ == sorted(dlc.__all__)
    assert all(getattr(dlc, name) is not None for name in dlc.__all__)


def test_import_and_help_touch_no_heavy_package() -> None:
    heavy = ["numpy", "onnx", "onnx_ir", "onnxruntime", "rich", "scipy", "torch"]
    code = f"import sys; from dlc.cli import run; run(['--help']); print([m for m in {heavy} if m in sys.modules])"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert child.stdout.splitlines()[-1] == "[]"


def test_every_pinned_range_admits_the_pinned_version() -> None:
    from packaging.requirements import Requirement

    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    extras = PROJECT["project"]["optional-dependencies"].values()
    ranges = [*PROJECT["project"]["dependencies"], *itertools.chain.from_iterable(extras)]
    wanted = [r for r in map(Requirement, ranges) if r.name not in ("dlc", "onnxruntime-gpu")]
    lower = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    missing = [str(r) for r in wanted if not r.specifier.contains(lower[r.name.lower().replace("_", "-")])]
    assert missing == []
