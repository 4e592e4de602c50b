"""Which model runs which batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc.costs import Costs
from dlc.interface import Interface, TensorType
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.recipe import Dataset, Recipe
from dlc.runtimes import RUNTIMES
from dlc.runtimes.base import Runner
from dlc.runtimes.session import SessionConfig
from dlc.stages.mixing import halves
from dlc.stages.workshop import InTurns, Workshop
from dlc.target import detect
from dlc.types import Feeds, Outputs
from tests.stages.elsewhere import PATH, Elsewhere

X = TensorType("x", "float32", ("n",))


@dataclass
class Memory(Runner):
    """Remembers what it was given."""

    interface: Interface
    seen: list[float]

    def infer(self, feeds: Feeds) -> Outputs:
        self.seen.extend(feeds["x"])
        return {"x": feeds["x"]}


def test_what_a_mix_keeps_is_measured_on_the_target_s_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES, "cuda", PATH)
    Elsewhere.sessions = 0
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[n, 4] x) => (float[n, 2] y)
        <float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}> { y = MatMul(x, w) }"""
    model, feeds = ir.from_onnx_text(text), {"x": np.eye(4, dtype=np.float32)}
    held = Dataset("rows", lambda: [feeds, feeds])
    costs = Costs(replace(detect(), provider="cuda"), SessionConfig(provider="cuda"), feeds)
    recipe = Recipe(name="m", source=Path("m.onnx"))
    Workshop(model, [[QuantizeDynamic()]], recipe, costs, held).keeps([model], held)
    assert Elsewhere.sessions == 2


def test_each_half_is_run_by_the_model_that_the_other_half_calibrated() -> None:
    batches = [{"x": np.array([i], np.float32)} for i in range(5)]
    whole = Dataset("numbers", lambda: iter(batches))
    chooses, judges = ([float(f["x"][0]) for f in half.batches()] for half in halves(whole))
    interface = Interface((X,), (X,))
    by_judges, by_chooses = Memory(interface, []), Memory(interface, [])  # named for what calibrated them
    turns = InTurns(interface, [by_judges, by_chooses])
    for feeds in whole.batches():
        turns.run(feeds)
    assert by_judges.seen == chooses
    assert by_chooses.seen == judges
