"""The 8-bit format of stated targets, and what static quantization makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc import pipeline
from dlc.errors import Unsupported
from dlc.integer_format import IntegerFormat, integer_format
from dlc.passes.base import clone, constant
from dlc.passes.quantize_static import QuantizeStatic
from dlc.recipe import Dataset, Recipe
from dlc.runtimes import RUNTIMES
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.stages.calibrating import static_int8
from dlc.target import Provider, Target
from dlc.types import Array
from tests.passes.texts import annotated
from tests.passes.weights import normal, sqnr
from tests.stages.elsewhere import PATH

U8, U8_REDUCED = IntegerFormat("uint8", False, True, False), IntegerFormat("uint8", False, True, True)
ARM, CUDA = IntegerFormat("int8", True, True, False), IntegerFormat("int8", True, False, False)


def at(provider: Provider, arch: str, *isa: str) -> Target:
    return Target(provider, arch, isa, 1, "onnxruntime 1.32", 26, 13)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (at("cpu", "x86_64", "avx2", "avx512f", "avx512_vnni"), U8),
        (at("cpu", "x86_64", "avx2", "avx_vnni"), U8),
        (at("cpu", "x86_64", "avx2", "avx512f"), U8_REDUCED),
        (at("cpu", "x86_64"), U8_REDUCED),
        (at("cpu", "aarch64", "asimddp"), ARM),
        (at("cpu", "aarch64", "asimddp", "i8mm"), ARM),
        (at("cpu", "aarch64"), ARM),
        (at("cuda", "x86_64", "avx2"), CUDA),
        (at("cuda", "aarch64", "asimddp"), CUDA),
    ],
)
def test_the_format_of_a_target(target: Target, expected: IntegerFormat) -> None:
    assert integer_format(target) == expected


NET = f"""g (float[n, 3, 8, 8] x) => (float[n, 4, 8, 8] y)
    <float[8, 3, 1, 1] w = {{{", ".join(f"{v:.6f}" for v in normal(24, seed=1))}}},
     float[8] b = {{{", ".join(["0.1"] * 8)}}},
     float[4, 8, 1, 1] v = {{{", ".join(f"{v:.6f}" for v in normal(32, seed=2))}}}> {{
    c = Conv(x, w, b)
    r = Relu(c)
    y = Conv(r, v)
}}"""
X = normal(32, 3, 8, 8, seed=3)
RECIPE = Recipe(name="m", source=Path("m.onnx"))


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forms are judged on the target's provider, which this machine may lack: the CPU computes the same numbers."""
    monkeypatch.setitem(RUNTIMES, "cuda", PATH)


def made(target: Target) -> tuple[ir.Model, QuantizeStatic]:
    model = annotated(NET)
    form = static_int8(model, RECIPE, Dataset("x", lambda: [{"x": X}]), target)
    pipeline.run(changed := clone(model), [form])
    return changed, form


def answer(model: ir.Model) -> Array:
    with OrtCpuRunner(model, SessionConfig()) as runner:
        return runner.run({"x": X})["y"]


def zero_points(model: ir.Model) -> dict[str, int]:
    """Zero points of activations, by what is quantized."""
    nodes = [n for n in model.graph if n.op_type == "QuantizeLinear"]
    return {str(n.inputs[0].name): int(constant(n.inputs[2])) for n in nodes}  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize(
    ("target", "relu"),
    [(at("cpu", "aarch64", "asimddp"), -128), (at("cpu", "aarch64"), -128), (at("cuda", "x86_64"), 0)],
)
def test_symmetric_activations_compute_what_they_should(target: Target, relu: int) -> None:
    model, form = made(target)
    assert (form.activation_dtype, form.symmetric, form.reduce_range) == ("int8", True, False)
    points = zero_points(model)
    assert points["x"] == 0
    assert points["c" if relu else "r"] == relu  # a ReLU becomes saturation where the lowest level may be its zero
    assert ("Relu" in {n.op_type for n in model.graph}) == (relu == 0)
    assert all(constant(n.inputs[2]).dtype == np.int8 for n in model.graph if n.op_type == "QuantizeLinear")  # type: ignore[union-attr]
    # 8 bits give some 40 dB a rounding, of which there are five; a range from 0 has half of the levels, 6 dB less
    assert sqnr(answer(annotated(NET)), answer(model)) > 25
    assert sqnr(answer(made(at("cpu", "x86_64", "avx512_vnni"))[0]), answer(model)) > 25


def test_levels_are_even_around_zero() -> None:
    """A scale is the 127th part of as far as the range reaches."""
    model, _ = made(at("cpu", "aarch64"))
    node = next(n for n in model.graph if n.op_type == "QuantizeLinear" and n.inputs[0] is model.graph.inputs[0])
    scale = constant(node.inputs[1])
    assert scale is not None
    seen = Dataset("x", lambda: [{"x": X}])
    form = static_int8(annotated(NET), RECIPE, seen, at("cpu", "aarch64"))
    reach = max(-form.ranges["x"].low, form.ranges["x"].high)
    assert float(scale) == pytest.approx(reach / 127, rel=1e-6)


def test_u8_cannot_be_symmetric() -> None:
    with pytest.raises(Unsupported, match="symmetric activations need int8"):
        QuantizeStatic(ranges={}, symmetric=True)
