"""The hard test of a claimed peak: an arena that may not be larger."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from dlc.errors import ModelError
from dlc.planning import Prepared, prepare
from dlc.runtimes.capped import UNIT, fits, least_arena, reserved
from tests.passes.weights import weighted
from tests.test_planning import FEEDS, X

CHAIN = """g (float[16, 64] x) => (float[16, 64] y) {
    a = Mul(x, x) b = Add(a, x) c = Mul(a, b) d = Add(c, x) y = Sub(d, x)
}"""


@pytest.fixture
def planned(tmp_path: Path) -> tuple[Path, Prepared]:
    prepared = prepare(weighted(CHAIN, {}), FEEDS)
    ir.save(prepared.model, tmp_path / "planned.onnx")
    return tmp_path / "planned.onnx", prepared


def test_an_arena_of_the_planned_bytes_is_enough_and_a_tenth_less_is_not(planned: tuple[Path, Prepared]) -> None:
    path, prepared = planned
    bound = prepared.plan.lower_bound
    assert bound == 3 * X.nbytes
    assert least_arena(path, FEEDS, prepared.config, bound) == bound
    assert not fits(
        path, FEEDS, prepared.config, int(0.9 * bound) // UNIT * UNIT, reserved(path, FEEDS, prepared.config)
    )


def test_a_model_without_inner_tensors_takes_its_output(tmp_path: Path) -> None:
    """Nothing is planned, so that the bound is 0; the output lies in ONNX Runtime's arena all the same."""
    prepared = prepare(weighted("g (float[16, 64] x) => (float[16, 64] y) { y = Relu(x) }", {}), FEEDS)
    ir.save(prepared.model, tmp_path / "planned.onnx")
    assert prepared.plan.lower_bound == 0
    found = least_arena(tmp_path / "planned.onnx", FEEDS, prepared.config, prepared.plan.lower_bound)
    assert X.nbytes <= found <= X.nbytes + UNIT


def test_a_model_that_does_not_load_is_an_error(planned: tuple[Path, Prepared]) -> None:
    path, prepared = planned
    path.write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="failed in a process of its own"):
        fits(path, FEEDS, prepared.config, 1 << 20, 0)
