"""A small classifier as an ONNX file, with data that it gets right, and a way to run the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc.artifact import seal
from dlc.cli import run

FEATURES, CLASSES = 128, 32
CENTRES = np.random.default_rng(0).uniform(-0.5, 0.5, size=(FEATURES, CLASSES)).astype(np.float32)


@dataclass(frozen=True)
class Ran:
    """One run of the command line."""

    code: int
    out: str
    err: str

    @property
    def judged(self) -> bool:
        """Whether a compile came to its verdicts, whatever latency this machine measured meanwhile."""
        return self.code in (0, 1, 5)


Cli = Callable[..., Ran]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Run dlc in this process, in an empty folder, with a cost cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLC_CACHE_DIR", str(tmp_path / "cache"))

    def call(*arguments: str | Path) -> Ran:
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        streams = capsys.readouterr()
        return Ran(code, streams.out, streams.err)

    return call


def classifier() -> ir.Model:
    """Nearest-centre classifier: probabilities = softmax(x·c - |c|²/2)."""
    weights = ", ".join(map(repr, CENTRES.ravel().tolist()))
    biases = ", ".join(map(repr, (-0.5 * (CENTRES**2).sum(axis=0)).tolist()))
    return ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["": 20]>
        centres (float[batch, {FEATURES}] x) => (float[batch, {CLASSES}] scores)
        <float[{FEATURES}, {CLASSES}] w = {{{weights}}}, float[{CLASSES}] b = {{{biases}}}>
        {{ distances = Gemm(x, w, b)  scores = Softmax(distances) }}
    """)


def examples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy centres and their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    return (CENTRES.T[labels] + rng.normal(scale=0.3, size=(count, FEATURES))).astype(np.float32), labels


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Write ``centres.onnx``."""
    path = tmp_path / "centres.onnx"
    ir.save(classifier(), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write ``calibration.npz`` and ``evaluation.npz``; return the folder."""
    for name, seed in (("calibration", 1), ("evaluation", 2)):
        x, labels = examples(200, seed)
        np.savez(tmp_path / f"{name}.npz", x=x, label=labels)
    return tmp_path


RECIPE = """
metric = "top1"
variants = ["fp32", "int8"]
[dims.batch]
min = 1
max = 64
typical = 4
[calibration]
file = "calibration.npz"
targets = "label"
[evaluation]
file = "evaluation.npz"
targets = "label"
"""


@pytest.fixture
def recipe(data: Path) -> Path:
    """Write ``recipe.toml``, which declares everything but the source."""
    path = data / "recipe.toml"
    path.write_text(RECIPE)
    return path


def spoil(folder: Path, precision: str, rows: int = 12) -> None:
    """Turn the weights of some classes around, and set the checksums right again."""
    path = folder / precision / "model.onnx"
    model = ir.load(path)
    weight = max(model.graph.initializers.values(), key=lambda v: v.const_value.nbytes if v.const_value else 0)
    assert weight.const_value is not None
    changed = weight.const_value.numpy().copy()
    changed[:, :rows] = changed[:, :rows][:, ::-1]
    weight.const_value = ir.tensor(changed, name=weight.name)
    ir.save(model, path)
    seal(folder)
