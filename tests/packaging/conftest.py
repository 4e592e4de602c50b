"""A compiled classifier to package, and a way to change what its manifest says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from dlc.artifact import MANIFEST, Artifact, seal
from dlc.cli import run
from dlc.manifest import VerdictRecord
from dlc.packaging import npm
from tests.cli.conftest import RECIPE, Cli, classifier, cli, examples

MODULES = npm.present("onnxruntime-web") or npm.present("onnxruntime-node")
__all__ = ["Cli", "cli"]  # a fixture


@pytest.fixture(autouse=True)
def node_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tests with a cache of their own find the packages of npm that are here."""
    if MODULES is not None:
        monkeypatch.setenv(npm.VARIABLE, str(MODULES.parent))


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the classifier in two precisions; both verdicts are *pass*, whatever this machine measured."""
    folder = tmp_path_factory.mktemp("compiled")
    ir.save(classifier(), folder / "centres.onnx")
    for name, seed in (("calibration", 1), ("evaluation", 2)):
        x, labels = examples(200, seed)
        np.savez(folder / f"{name}.npz", x=x, label=labels)
    (folder / "recipe.toml").write_text(RECIPE)
    source, recipe = str(folder / "centres.onnx"), str(folder / "recipe.toml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLC_CACHE_DIR", str(folder / "cache"))
        assert run(["compile", source, "-r", recipe, "-o", str(folder)]) in (0, 1, 5)
    set_verdict(folder / "centres", "fp32", "pass")
    set_verdict(folder / "centres", "int8", "pass")
    return folder / "centres"


@pytest.fixture
def artifact(compiled: Path, tmp_path: Path) -> Path:
    """Return a copy of the artifact that a test may change."""
    return Path(shutil.copytree(compiled, tmp_path / "build" / "centres"))


def set_verdict(artifact: Path, precision: str, status: str) -> None:
    """State another verdict in the manifest, and seal the artifact again."""
    manifest = Artifact.load(artifact).manifest
    verdict = msgspec.convert({"status": status, "reasons": [f"{status}: as the test wants it"]}, VerdictRecord)
    variants = tuple(
        msgspec.structs.replace(v, verdict=verdict) if v.precision == precision else v for v in manifest.variants
    )
    changed = msgspec.structs.replace(manifest, variants=variants)
    (artifact / MANIFEST).write_bytes(msgspec.json.encode(changed))
    seal(artifact)


def edit_graph(artifact: Path, precision: str, change: Callable[[ir.Model], None]) -> None:
    """Change a variant's model file, and seal the artifact again."""
    path = artifact / precision / "model.onnx"
    model = ir.load(path)
    change(model)
    path.unlink()
    ir.save(model, path)
    seal(artifact)


def as_if_for(artifact: Path, isa: tuple[str, ...]) -> Path:
    """State another processor as the target in the manifest, and seal the artifact again."""
    manifest = Artifact.load(artifact).manifest
    target = msgspec.structs.replace(manifest.target, isa=isa)
    (artifact / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, target=target)))
    seal(artifact)
    return artifact
