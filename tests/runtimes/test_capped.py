"""The hard test of a claimed peak: an arena that may not be larger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc.errors import ModelError
from dlc.passes.arena import UNIT
from dlc.planning import Prepared, prepare
from dlc.runtimes.capped import fits, reserved
from tests.passes.weights import weighted
from tests.test_planning import FEEDS, X

CHAIN = """g (float[16, 64] x) => (float[16, 64] y) {
    a = Mul(x, x) b = Add(a, x) c = Mul(a, b) d = Add(c, x) y = Sub(d, x)
}"""

MIXED = """g (float[16, 64] x, float[12, 64] z, int64[1] axes) => (float[1, 64] y) {
    b = Concat<axis = 0>(x, x) c = Sin(x) r = ReduceMax<keepdims = 1>(b, axes)
    d = Cos(x) f = Concat<axis = 0>(x, z)
    s = ReduceMax<keepdims = 1>(f, axes) t = ReduceMax<keepdims = 1>(c, axes) u = ReduceMax<keepdims = 1>(d, axes)
    v = Add(r, s) w = Add(t, u) y = Add(v, w)
}"""


@pytest.fixture
def planned(tmp_path: Path) -> tuple[Path, Prepared]:
    prepared = prepare(weighted(CHAIN, {}), FEEDS)
    ir.save(prepared.model, tmp_path / "planned.onnx")
    return tmp_path / "planned.onnx", prepared


def test_an_arena_of_the_planned_bytes_is_enough_and_a_tenth_less_is_not(planned: tuple[Path, Prepared]) -> None:
    path, prepared = planned
    bound, weights = prepared.plan.lower_bound, reserved(path, FEEDS, prepared.config)
    assert bound == 3 * X.nbytes
    assert fits(path, FEEDS, prepared.config, bound, weights)
    assert not fits(path, FEEDS, prepared.config, int(0.9 * bound) // UNIT * UNIT, weights)


def test_the_claim_is_to_the_byte_where_best_fit_wastes(tmp_path: Path) -> None:
    """In the bound and y, d splits what b left, and f has no room; in what is claimed d has room behind c."""
    feeds = {**FEEDS, "z": X[:12]}
    prepared = prepare(weighted(MIXED, {"axes": np.array([0])}), feeds, reorder=False)
    ir.save(prepared.model, path := tmp_path / "planned.onnx")
    claim, bound = prepared.plan.options_arena, prepared.plan.lower_bound
    if claim is None:
        pytest.skip("allocations cannot be traced here")
    weights = reserved(path, feeds, prepared.config)
    assert claim > bound + UNIT  # not only the output, y
    assert fits(path, feeds, prepared.config, claim, weights)
    assert not fits(path, feeds, prepared.config, claim - UNIT, weights)


def test_a_model_without_inner_tensors_takes_its_output(tmp_path: Path) -> None:
    """Nothing is planned, so that the bound is 0; the output lies in ONNX Runtime's arena all the same."""
    prepared = prepare(weighted("g (float[16, 64] x) => (float[16, 64] y) { y = Relu(x) }", {}), FEEDS)
    ir.save(prepared.model, path := tmp_path / "planned.onnx")
    assert prepared.plan.lower_bound == 0
    assert prepared.plan.options_arena in (None, X.nbytes)
    assert fits(path, FEEDS, prepared.config, X.nbytes, 0)
    assert not fits(path, FEEDS, prepared.config, X.nbytes - UNIT, 0)


def test_a_model_that_does_not_load_is_an_error(planned: tuple[Path, Prepared]) -> None:
    path, prepared = planned
    path.write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="failed in a process of its own"):
        fits(path, FEEDS, prepared.config, 1 << 20, 0)
