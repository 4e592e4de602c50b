"""What int8 makes of recurrent operators, and how several passes share one list of what became of each."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from dlc import pipeline
from dlc.costs import Costs
from dlc.interface import Interface
from dlc.passes.base import Site, weight_bytes
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.passes.quantize_weights import QuantizeWeights
from dlc.pipeline import PassRecord
from dlc.recipe import Dataset, Gates, Recipe
from dlc.runtimes.session import SessionConfig
from dlc.stages.recurrent import agreeing, outcomes, recurrent
from dlc.stages.rewriting import Rewritten
from dlc.stages.variants import Build, build
from dlc.target import detect
from dlc.types import Array, Feeds
from tests.passes.texts import compute
from tests.passes.weights import sqnr, weighted

K, H = 32, 32
RNG = np.random.default_rng(0)


def random(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def body(op: str, gates: int) -> str:
    """A product, then a recurrent operator."""
    return f"""g (float[t, n, {K}] x, float[{K}, {K}] m, float[1, {gates * H}, {K}] w, float[1, {gates * H}, {H}] r)
        => (float[t, 1, n, {H}] y) {{
        f = MatMul(x, m)
        y = {op}<hidden_size = {H}>(f, w, r)
    }}"""


def model(op: str, gates: int) -> ir.Model:
    return weighted(body(op, gates), {"m": random(K, K), "w": random(1, gates * H, K), "r": random(1, gates * H, H)})


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_each_operator_takes_the_form_that_has_a_kernel(op: str, gates: int) -> None:
    before = model(op, gates)
    after = before.clone()
    records = pipeline.run(after, [*recurrent(after, detect()), QuantizeDynamic()])
    converted = {s.op: s.reason for s in outcomes(records) if s.applied}
    assert converted == {"MatMul": None, op: None}
    kinds = {n.op_type for n in after.graph}
    assert ("DynamicQuantizeLSTM" in kinds) == (op == "LSTM")
    assert (op in kinds) == (op != "LSTM")
    # a byte for four, and scales: of blocks of 32 elements 4 bytes each, of columns 5 each with the zero point
    assert weight_bytes(after) < 0.5 * weight_bytes(before)
    feeds: Feeds = {"x": random(3, 2, K) * np.float32(0.1)}
    # 8 bits of weights and of activations give some 40 dB each; a wrong gate gives none.
    assert sqnr(compute(before, feeds)["y"], compute(after, feeds)["y"]) > 20


def test_nothing_recurrent_needs_no_pass() -> None:
    plain = weighted(
        f"g (float[n, {K}] x, float[{K}, {K}] m) => (float[n, {K}] y) {{ y = MatMul(x, m) }}", {"m": random(K, K)}
    )
    assert recurrent(plain, detect()) == []


def test_a_small_gru_is_left_and_the_rest_is_quantized() -> None:
    """The pass for recurrent operators is not the only one, so that it is no error if it finds nothing to do."""
    small = weighted(
        f"""g (float[t, n, {K}] x, float[{K}, 2] m, float[1, 6, 2] w, float[1, 6, 2] r) => (float[t, 1, n, 2] y) {{
            f = MatMul(x, m)
            y = GRU<hidden_size = 2>(f, w, r)
        }}""",
        {"m": random(K, 2), "w": random(1, 6, 2), "r": random(1, 6, 2)},
    )
    records = pipeline.run(small, [*recurrent(small, detect()), QuantizeDynamic()])
    assert {s.op: s.reason for s in outcomes(records)} == {
        "GRU": "weight has 12 elements, fewer than min_elements=512", "MatMul": None
    }  # fmt: skip


def test_the_pass_that_took_a_node_speaks_for_it_and_else_the_first() -> None:
    def record(*sites: Site) -> PassRecord:
        return PassRecord("p", {}, any(s.applied for s in sites), sites, 2, 2, 0.0)

    first = record(Site("p", "a", "LSTM", "no"), Site("p", "b", "LSTM", "never"))
    second = record(Site("q", "a", "LSTM", None), Site("q", "b", "LSTM", "other"), Site("q", "c", "Gemm", None))
    found = outcomes([first, second])
    assert [(s.rewrite, s.node, s.reason) for s in found] == [("q", "a", None), ("p", "b", "never"), ("q", "c", None)]


def alone(before: str = "Relu", constants: bool = True) -> ir.Model:
    """One LSTM after another operator, and nothing else that has weights."""
    body = f"""g (float[t, n, {K}] x, float[1, {4 * H}, {K}] w, float[1, {4 * H}, {H}] r) => (float[t, 1, n, {H}] y) {{
        f = {before}(x)
        y = LSTM<hidden_size = {H}>(f, w, r)
    }}"""
    return weighted(body, {"w": random(1, 4 * H, K), "r": random(1, 4 * H, H)} if constants else {})


def int8(model: ir.Model, calibration: Dataset | None = None) -> Build:
    feeds = {
        t.name: random(*(d if isinstance(d, int) else 3 for d in t.shape or ())) for t in Interface.of(model).inputs
    }
    costs = Costs(detect(), SessionConfig(), feeds)
    recipe = Recipe(name="net", source="net.onnx", calibration=calibration)  # type: ignore[arg-type]
    return build("int8", Rewritten(model), recipe, costs)


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_net_of_an_lstm_alone_is_built(calibrated: bool) -> None:
    data = Dataset("sequences", lambda: [{"x": random(3, 2, K)}] * 2)
    built = int8(alone(), data if calibrated else None)
    assert built.model is not None, built.reason
    assert built.quantized is not None
    assert (built.quantized.converted, built.quantized.left) == ({"LSTM": 1}, ())


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (alone("Identity"), "nothing was converted: LSTM: it reads the input 'x'"),
        (alone(constants=False), "nothing was converted: LSTM: W is not constant"),
    ],
    ids=["reads features", "no weights"],
)
def test_where_nothing_is_quantized_int8_is_not_built(model: ir.Model, says: str) -> None:
    assert int8(model).reason.startswith(says)


def test_a_net_that_was_quantized_is_not_quantized_again() -> None:
    once = int8(alone()).model
    assert once is not None
    assert "the model is quantized already (DynamicQuantizeLSTM ×1)" in int8(once).reason


@pytest.mark.parametrize(("least", "weights_alone"), [(None, False), (0.5, False), (1.0, True)])
def test_weights_alone_take_8_bits_where_the_outputs_would_move_too_far(
    least: float | None, *, weights_alone: bool
) -> None:
    data = Dataset("sequences", lambda: [{"x": random(3, 2, K)}] * 2)
    recipe = Recipe(name="net", source="net.onnx", calibration=data, gates=Gates(agreement=least))  # type: ignore[arg-type]
    before = model("LSTM", 4)
    lstm, last = agreeing(before, [*recurrent(before, detect()), QuantizeDynamic()], recipe, detect())
    assert lstm.name == "quantize-lstm"
    assert isinstance(last, QuantizeWeights) == weights_alone
    assert [note.startswith("weights alone take 8 bits") for note in last.notes] == [True] * weights_alone
