"""FP16 and BF16 where values leave their range in the middle: those nodes stay in FP32, and say why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from dlc import pipeline
from dlc.magnitudes import magnitudes
from dlc.passes.base import clone
from dlc.passes.cast_fp16 import CastFp16, Magnitude
from dlc.passes.emulate_bf16 import EmulateBf16
from dlc.recipe import Dataset, Recipe
from dlc.stages.halves import bf16, fp16, measured
from dlc.types import Array, Feeds
from tests.passes.exported import EXPORTERS
from tests.passes.texts import compute, graph
from tests.passes.weights import sqnr, weighted

BODY = """g (float[n, 8] x, float[8, 8] w) => (float[n, 8] y) {
    h = MatMul(x, w) b = Mul(h, h) c = MatMul(b, w) y = Tanh(c)
}"""
SQUARE = np.eye(8, dtype=np.float32) * 300


def normal(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


FEEDS: list[Feeds] = [{"x": normal(4, 8)}, {"x": 2 * normal(4, 8)}]


def squares() -> ir.Model:
    return weighted(BODY, {"w": SQUARE})


def recipe(feeds: list[Feeds] = FEEDS) -> Recipe:
    return Recipe(name="squares", source=squares, calibration=Dataset("few", lambda: feeds))  # type: ignore[arg-type]


@pytest.mark.parametrize("held", [1 << 20, 1])
def test_magnitudes_are_those_of_all_data(held: int) -> None:
    seen = magnitudes(squares(), FEEDS, held=held)
    assert set(seen) == {"x", "h", "b", "c", "y"}
    x = np.concatenate([f["x"] for f in FEEDS])
    assert seen["x"] == Magnitude(float(np.abs(x).max()), 0.0)
    assert seen["h"].largest == float(np.abs(300 * x).max())


def test_what_is_lost_is_a_share_of_what_is_not_zero() -> None:
    model = graph("g (float[n, 4] x) => (float[n, 4] y) { y = Identity(x) }")
    seen = magnitudes(model, [{"x": np.array([[0, 1e-9, 1, np.inf]], np.float32)}])
    assert seen["y"] == Magnitude(1.0, 0.5)


def test_overflow_in_the_middle() -> None:
    """Squares beyond 65504 are infinite in FP16; with measured ranges the nodes at them stay in FP32."""
    feeds = FEEDS[0]
    want = compute(squares(), feeds)["y"]
    blind, seeing = squares(), squares()
    CastFp16()(blind)
    [record] = pipeline.run(seeing, [fp16(seeing, recipe())])
    assert (overflows(blind, feeds), overflows(seeing, feeds)) == (True, False)
    reasons = {s.node: s.reason for s in record.sites}
    assert [*reasons] == ["node_h", "node_b", "node_c", "node_y"]
    assert reasons["node_h"] is None
    reason = str(reasons["node_b"])
    assert reason.startswith("range ±")
    assert "of 'b' exceeds FP16, which ends at 65504" in reason
    assert sqnr(want, compute(seeing, feeds)["y"]) > 50


def overflows(model: ir.Model, feeds: Feeds) -> bool:
    """Whether an inner value is not finite. The CPU provider rounds to FP16 what it hands out, and little else."""
    copy = model.clone()
    inner = (v for n in copy.graph for v in n.outputs if not v.is_graph_output())
    copy.graph.outputs.extend(v for v in inner if v.dtype != ir.DataType.BFLOAT16)  # numpy has no such type
    return any(not np.isfinite(array.astype(np.float32)).all() for array in compute(copy, feeds).values())


def test_a_margin_below_the_end_is_kept() -> None:
    model = graph("g (float[n, 4] x) => (float[n, 4] y) { y = Exp(x) }")
    for largest, kept in ((32000.0, False), (33000.0, True)):
        options = CastFp16(blocked=(), magnitudes={"y": Magnitude(largest, 0.0)})
        copy = model.clone()
        [record] = pipeline.run(copy, [options])
        assert ([s.node for s in record.sites] != []) is kept
        assert record.modified is not kept


def test_what_would_become_zero() -> None:
    model = graph("g (float[n, 4] x) => (float[n, 4] y) { a = Exp(x) y = Neg(a) }")
    [record] = pipeline.run(model, [CastFp16(blocked=(), magnitudes={"a": Magnitude(1e-8, 0.9)})])
    assert not record.modified
    assert {s.reason for s in record.sites} == {"90% of 'a' would become zero in FP16: at most 1e-08"}


def test_seeded_inputs_where_there_is_no_data() -> None:
    model = squares()
    assert set(measured(model, replace(recipe(), calibration=None))) == {"x", "h", "b", "c", "y"}


MASKED = "g (float[n, 4] x, float[n, 4] mask) => (float[n, 4] y) { d = Add(x, mask) y = Softmax(d) }"


def test_a_mask_in_both() -> None:
    """The least FP32 number lies beyond FP16 and BF16: there it would become -inf, and a row of it NaN."""

    def masked() -> ir.Model:
        return graph(MASKED)

    feeds: Feeds = {"x": normal(2, 4), "mask": np.full((2, 4), np.finfo(np.float32).min)}
    data = Recipe(name="m", source=masked, calibration=Dataset("few", lambda: [feeds]))  # type: ignore[arg-type]
    for make, name in ((fp16, "FP16"), (bf16, "BF16")):
        model = masked()
        [record] = pipeline.run(model, [make(model, data)])
        assert f"exceeds {name}" in str(record.sites[0].reason)
        assert record.sites[0].op == "Add"
        assert np.isfinite(compute(model, feeds)["y"]).all()
        assert not overflows(model, feeds)
    for form in (CastFp16(), EmulateBf16()):
        blind = masked()
        form(blind)
        assert overflows(blind, feeds)


class Wide(nn.Module):
    """Activations that are large in the middle, as the residual stream of some transformers is."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.down(torch.relu(self.up(x)) * 6e4) / 6e4)


@pytest.mark.parametrize("exporter", sorted(EXPORTERS))
def test_an_exported_module(exporter: str) -> None:
    torch.manual_seed(0)
    model = EXPORTERS[exporter](Wide().eval(), torch.zeros(4, 8))
    feeds: Feeds = {"x": 4 * normal(4, 8)}
    want, blind = compute(model, feeds)["y"], clone(model)
    CastFp16()(blind)
    assert overflows(blind, feeds)
    data = Recipe(name="wide", source=Wide, calibration=Dataset("one", lambda: [feeds]))
    [record] = pipeline.run(model, [fp16(model, data)])
    assert any("exceeds FP16" in str(s.reason) for s in record.sites)
    assert any(s.applied for s in record.sites)
    assert not overflows(model, feeds)
    # The first product is rounded, relative noise 2^-11 / sqrt(3) for each of three tensors: more than 60 dB.
    assert sqnr(want, compute(model, feeds)["y"]) > 55
