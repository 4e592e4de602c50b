"""The worst layers of a quantized variant go on record; what cannot be compared stands in no compile's way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc.artifact import MODEL
from dlc.manifest import Quantized
from dlc.runtimes.session import SessionConfig
from dlc.stages import layers
from dlc.stages.evidence import Subject
from dlc.stages.layers import by_closeness, with_layers
from dlc.stages.variants import Build
from tests.passes.weights import weighted
from tests.report.example import LABELLED

BODY = """g (float[2, 8] x, float[8, 8] a, float[8, 8] b) => (float[2, 8] y) {
    h = MatMul(x, a)  r = Relu(h)  g = MatMul(r, b)  y = Tanh(g) }"""
FEEDS = {"x": np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32)}
QUANTIZED = Quantized(converted={"MatMul": 2}, left=(), weight_bytes_before=512, weight_bytes_after=128)


def variant(folder: Path, noise: float) -> tuple[Subject, ir.Model]:
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal((8, 8)).astype(np.float32) for n in "ab"}
    weights["b"] *= np.float32(1 + noise)
    model = weighted(BODY, weights)
    folder.mkdir()
    ir.save(model, folder / MODEL)
    return Subject(folder.name, folder, SessionConfig()), model


@pytest.fixture
def fp32(tmp_path: Path) -> Subject:
    return variant(tmp_path / "fp32", 0.0)[0]


def test_the_worst_come_first(tmp_path: Path, fp32: Subject) -> None:
    int8, model = variant(tmp_path / "int8", 0.1)
    [found] = by_closeness([fp32, int8], [Build("int8", model, quantized=QUANTIZED)], FEEDS).values()
    assert not isinstance(found, str)
    assert [x.value for x in found[-2:]] == ["h", "r"]
    assert {x.value for x in found[:2]} == {"g", "y"}
    assert [x.sqnr_db for x in found] == sorted(x.sqnr_db for x in found)
    assert next(x for x in found if x.value == "g").sqnr_db == pytest.approx(20, abs=0.01), "an error of a tenth"


def test_nothing_to_compare(tmp_path: Path, fp32: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    int8, model = variant(tmp_path / "int8", 0.1)
    build = Build("int8", model, quantized=QUANTIZED)
    assert by_closeness([int8], [build], FEEDS) == {}
    assert by_closeness([fp32, int8], [Build("int8", model), Build("int4", None)], FEEDS) == {}
    monkeypatch.setattr(layers, "LARGEST", 511)
    assert by_closeness([fp32, int8], [build], FEEDS) == {}


def test_a_model_that_cannot_be_compared_says_why(tmp_path: Path, fp32: Subject) -> None:
    int8, model = variant(tmp_path / "int8", 0.1)
    (tmp_path / "int8" / MODEL).write_bytes(b"")
    found = by_closeness([fp32, int8], [Build("int8", model, quantized=QUANTIZED)], FEEDS)
    [*_, note] = next(v for v in with_layers(LABELLED, found).variants if v.precision == "int8").notes
    assert note.startswith("layers were not compared with fp32: ")
    assert MODEL in note
