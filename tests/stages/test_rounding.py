"""Tolerances of quantized variants: what rounding moves is measured, and widens them only where it must."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc.artifact import write_golden
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.stages.rounding import ULPS, moved
from dlc.stages.shipping import ship
from dlc.tolerance import EPS32

SCALE = np.float32(0.1)
PLAIN = (
    """<ir_version: 10, opset_import: ["": 20]> g (float[1] x) => (float[1] y) <float s = {0.1}> { y = Mul(x, s) }"""
)
QUANTIZED = """<ir_version: 10, opset_import: ["": 20]> g (float[1] x) => (float[1] y)
    <float s = {0.1}, uint8 z = {0}> { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }"""


@pytest.mark.parametrize(
    ("text", "x", "steps"),
    [(PLAIN, 5 * SCALE, 0), (QUANTIZED, 5 * SCALE, 0), (QUANTIZED, np.float32(5.5) * SCALE, 1)],
    ids=["no step", "amid a step", "on a boundary"],
)
def test_only_a_value_on_a_boundary_moves_by_a_step(text: str, x: float, steps: int, tmp_path: Path) -> None:
    model = ir.from_onnx_text(text)
    subject = ship(tmp_path, "int8", model, SessionConfig())
    feeds = {"x": np.array([x], np.float32)}
    with OrtCpuRunner(model) as runner:
        stated = runner.run(feeds)
    write_golden(subject.folder, [(feeds, stated)])
    found = moved(subject, np.random.default_rng(0))
    one = float(SCALE / stated["y"][0])
    assert found == pytest.approx(steps * one, abs=2 * ULPS * EPS32)  # the scale itself moves by ULPS, and is rounded


def test_a_graph_without_fp32_constants_does_not_move(tmp_path: Path) -> None:
    model = ir.from_onnx_text('<ir_version: 10, opset_import: ["": 20]> g (float[1] x) => (float[1] y) { y = Neg(x) }')
    subject = ship(tmp_path, "int8", model, SessionConfig())
    feeds = {"x": np.ones(1, np.float32)}
    write_golden(subject.folder, [(feeds, {"y": -feeds["x"]})])
    assert moved(subject, np.random.default_rng(0)) == 0


def test_the_ends_of_the_type_stay_in_it(tmp_path: Path) -> None:
    largest = np.finfo(np.float32).max
    masks = np.array([largest, -largest, np.inf, -np.inf] * 8, np.float32)
    model = ir.from_onnx_text(f"""<ir_version: 10, opset_import: ["": 20]> g (float[32] x) => (float[32] y)
        <float[32] m = {{{", ".join(["0.0"] * 32)}}}> {{ y = Min(x, m) }}""")
    model.graph.initializers["m"].const_value = ir.Tensor(masks, name="m")
    subject = ship(tmp_path, "int8", model, SessionConfig())
    x = np.zeros(32, np.float32)
    write_golden(subject.folder, [({"x": x}, {"y": np.minimum(x, masks)})])
    assert moved(subject, np.random.default_rng(0)) <= 2 * ULPS * EPS32


def test_an_exponent_stays_a_whole_number(tmp_path: Path) -> None:
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["": 20]> g (float[1] x) => (float[1] y)
        <float two = {2.0}> { y = Pow(x, two) }""")
    subject = ship(tmp_path, "int8", model, SessionConfig())
    write_golden(subject.folder, [({"x": np.array([-3], np.float32)}, {"y": np.array([9], np.float32)})])
    assert moved(subject, np.random.default_rng(0)) == 0
