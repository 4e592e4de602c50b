"""Fake quantization against the kernels, and graphs that have none to compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc.manifest import Agreement, Simulation
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.recipe import Dataset
from dlc.report.table import simulation_line
from dlc.runtimes.session import SessionConfig
from dlc.stages.shipping import ship
from dlc.stages.simulation import gap
from tests.test_quantized_speed import FEEDS, network, ours, product

DATA = Dataset("one", lambda: [FEEDS])


def measured(folder: Path, model: ir.Model, data: Dataset = DATA, *, classes: bool = False) -> Simulation | None:
    return gap(ship(folder, "int8", model, SessionConfig()), model, data, classes=classes)


def test_the_kernels_come_close_to_the_simulation(tmp_path: Path) -> None:
    found = measured(tmp_path, ours(network()))
    assert found is not None
    assert found.agreement is not None
    assert found.note == ""
    # A sum on a rounding boundary falls to either side: some outputs are a step, 1/255 of the range, apart.
    assert found.agreement.sqnr_db > 30
    assert found.agreement.examples == 1


def test_saturation_shows_as_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation is run on the file as it ships: a kernel that errs is told from it."""
    model = ours(network())
    subject = ship(tmp_path, "int8", model, SessionConfig())
    broken = ours(network())
    broken.graph.initializers["w_scale"].const_value = ir.tensor(np.full(16, 1e-3, np.float32), name="w_scale")
    other = ship(tmp_path, "broken", broken, SessionConfig())
    monkeypatch.setattr(type(subject), "runner", lambda _: _runner(other.folder))
    found = gap(subject, model, DATA, classes=False)
    assert found is not None
    assert found.agreement is not None
    assert found.agreement.sqnr_db < 20


def _runner(folder: Path) -> object:
    from dlc.runtimes.ort_cpu import OrtCpuRunner

    return OrtCpuRunner(folder / "model.onnx")


def test_classes_that_agree(tmp_path: Path) -> None:
    model, feeds = product("MatMul(x, w)"), {"x": np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)}
    found = measured(tmp_path, ours(model, feeds), Dataset("one", lambda: [feeds]), classes=True)
    assert found is not None
    assert found.agreement is not None
    assert found.agreement.argmax is not None
    assert found.agreement.argmax >= 7 / 8  # one of eight rows may have two scores within a step


def test_integer_operators_have_no_simulated_form(tmp_path: Path) -> None:
    model = product()
    QuantizeDynamic()(model)
    found = measured(tmp_path, model)
    assert found == Simulation(note="the graph has no simulated form: 2 of its nodes are integer kernels themselves")


def test_nothing_quantized(tmp_path: Path) -> None:
    assert measured(tmp_path, network()) is None


def test_the_sentence() -> None:
    agreement = Agreement(argmax=0.995, cosine=1.0, sqnr_db=48.25, examples=200)
    assert simulation_line(Simulation(agreement=agreement)) == (
        "simulation against kernels: SQNR 48.2 dB, the same class in 99.50% of 200 examples"
    )
    assert simulation_line(Simulation(note="none")) == "none"
