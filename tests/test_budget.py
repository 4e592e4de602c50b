from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc import budget
from dlc.budget import Candidate, climb
from dlc.compiler import Options, compile  # noqa: A004 - the verb's name
from dlc.errors import CapabilityError, PassError, Unsupported
from dlc.memory_plan import read
from dlc.runtimes.added import Added, added
from dlc.runtimes.kernels import Prober
from dlc.runtimes.session import SessionConfig
from dlc.sources.recipe_files import load_recipe
from dlc.target import detect
from tests import test_planning
from tests.cli.conftest import classifier
from tests.passes.weights import weighted

FEEDS = {"x": np.ones((4, 128), np.float32)}
SIZES = {"stock": 900, "order": 800, "planned": 700, "mapped": 600}


@pytest.fixture
def variant(tmp_path: Path) -> Candidate:
    ir.save(classifier(), tmp_path / "model.onnx")
    return Candidate("fp32", tmp_path, SessionConfig())


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
    found = climb([Candidate("fp32", tmp_path, SessionConfig())], test_planning.FEEDS, 1 << 10, bugs)
    assert [(r.rung, r.bytes is None) for r in found.tried] == [("stock", False), ("order", True), ("mapped", True)]
    assert [str(b) for b in bugs] == [r.note for r in found.tried[1:]]
    assert "by the model of liveness" in found.tried[1].note


def test_other_providers_are_refused(variant: Candidate) -> None:
    with pytest.raises(Unsupported, match="planned for the CPU provider, not for cuda"):
        added(variant.folder / "model.onnx", FEEDS, SessionConfig(provider="cuda"))


def test_what_cannot_be_measured_is_refused_before_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlc.compiler.export", None)
    recipe, options = load_recipe("digits-mlp"), Options(memory_budget=1 << 30)
    with pytest.raises(Unsupported, match="planned for the CPU provider, not for cuda"):
        compile(recipe, replace(detect(), provider="cuda"), tmp_path, options)
    monkeypatch.setattr("dlc.runtimes.added.STATUS", tmp_path / "none")
    with pytest.raises(CapabilityError, match="on Linux only"):
        compile(recipe, detect(), tmp_path, options)
