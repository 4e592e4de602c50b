from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc import budget
from dlc.budget import Candidate, climb
from dlc.errors import PassError
from dlc.memory_plan import read
from dlc.runtimes.added import Added
from dlc.runtimes.kernels import Prober
from dlc.runtimes.session import SessionConfig
from tests import test_planning
from tests.cli.conftest import classifier
from tests.passes.weights import weighted

FEEDS = {"x": np.ones((4, 128), np.float32)}
SIZES = {"stock": 900, "order": 800, "planned": 700, "mapped": 600}


@pytest.fixture
def variant(tmp_path: Path) -> Candidate:
    ir.save(classifier(), tmp_path / "model.onnx")
    return Candidate("fp32", tmp_path, SessionConfig(), 100)


@pytest.mark.parametrize("way", ["order", "mapped"])
def test_the_first_way_that_fits_leaves_its_files(
    variant: Candidate, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(model: Path, _feeds: object, _config: SessionConfig, plan: object) -> Added:
        mapped = (model.parent / "planned.onnx.data").exists()
        rung = "stock" if model.name == "model.onnx" else "mapped" if mapped else "planned" if plan else "order"
        return Added(bytes=SIZES[rung])

    monkeypatch.setattr(budget, "added", measured)
    found = climb([variant], FEEDS, SIZES[way], [])
    assert found.chosen == f"fp32 {way}"
    assert [r.fits for r in found.tried] == [False] * (len(found.tried) - 1) + [True]
    recorded = read(variant.folder / "planned" / "memory.json")
    assert recorded.shapes == {"x": (4, 128)}
    assert (variant.folder / "planned" / "planned.onnx.data").exists() == (way == "mapped")


def test_each_way_is_measured_in_a_process_of_its_own(variant: Candidate) -> None:
    found = climb([variant], FEEDS, 1 << 10, [])
    assert [r.rung for r in found.tried if r.rung != "planned"] == ["stock", "order", "mapped"]
    assert all(r.bytes is not None and r.bytes > 1 << 10 for r in found.tried)
    assert found.chosen == ""


def test_a_way_that_cannot_be_measured_says_why(variant: Candidate) -> None:
    (variant.folder / "model.onnx").write_bytes(b"nonsense")
    found = climb([variant], FEEDS, 1 << 10, [])
    assert [(r.rung, r.bytes) for r in found.tried] == [("stock", None), ("order", None), ("mapped", None)]
    assert all("cannot load" in r.note for r in found.tried)


def test_a_broken_promise_is_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = weighted("g (float[16, 64] x) => (float[16, 64] y) { a = Mul(x, x) b = Relu(a) y = Mul(b, x) }", {})
    ir.save(model, tmp_path / "model.onnx")
    monkeypatch.setattr(Prober, "kernels", test_planning.plain)
    bugs: list[PassError] = []
    found = climb([Candidate("fp32", tmp_path, SessionConfig(), 0)], test_planning.FEEDS, 1 << 10, bugs)
    assert [(r.rung, r.bytes is None) for r in found.tried] == [("stock", False), ("order", True), ("mapped", True)]
    assert [str(b) for b in bugs] == [r.note for r in found.tried[1:]]
    assert "by the model of liveness" in found.tried[1].note
