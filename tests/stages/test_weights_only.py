from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from dlc.calibration import MAX_RAM, Calibration
from dlc.cost_table import Cost
from dlc.costs import Costs
from dlc.errors import Unsupported
from dlc.manifest import Estimate
from dlc.passes.base import clone
from dlc.passes.quantize_weights import QuantizeWeights
from dlc.quantization import Int4, Int8
from dlc.recipe import Dataset, Recipe
from dlc.runtimes.session import SessionConfig
from dlc.stages.recovering import sqnr_db
from dlc.stages.rewriting import rewrite
from dlc.stages.variants import build
from dlc.stages.weights_only import SEEDED, bits_of, weights_only
from dlc.target import detect
from dlc.types import Array, Feeds
from tests.passes.weights import weighted

BODY = """g (float[m, 96] x, float[96, 128] w, float[128, 64] v) => (float[m, 64] y) {
    h = MatMul(x, w) r = Relu(h) y = MatMul(r, v)
}"""


def inputs(rows: int, seed: int) -> Array:
    """Inputs that move together: what GPTQ makes use of."""
    mixed = np.random.default_rng(0).standard_normal((24, 96))
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, 24)) @ mixed + 0.2 * rng.standard_normal((rows, 96))).astype(np.float32)


def batches() -> Iterator[Feeds]:
    return ({"x": inputs(64, seed)} for seed in range(1, 9))


DATA = Dataset("mixtures", batches)
HELD_OUT = Dataset("other mixtures", lambda: [{"x": inputs(256, 99)}])


def asking(data: Dataset | None, max_ram: int = MAX_RAM) -> Recipe:
    return Recipe(name="m", source="m.onnx", calibration=data, calibrate=Calibration(max_ram=max_ram))  # type: ignore[arg-type]


@pytest.fixture
def model() -> ir.Model:
    rng = np.random.default_rng(7)
    shapes = {"w": (96, 128), "v": (128, 64)}
    drawn = weighted(BODY, {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()})
    for value in (v for node in drawn.graph for v in node.outputs):
        value.dtype = ir.DataType.FLOAT
    return drawn


@pytest.fixture
def costs() -> Costs:
    return Costs(detect(), SessionConfig(), {"x": inputs(8, 1)})


def test_the_form_that_is_kept_is_no_further_from_fp32_on_other_data(model: ir.Model, costs: Costs) -> None:
    kept = weights_only(model, 4, asking(DATA), costs)
    assert kept.method == "gptq"
    assert set(kept.moments) == {"node_h", "node_y"}
    plain = replace(QuantizeWeights(), accuracy_level=kept.accuracy_level)
    assert sqnr_db(model, kept, HELD_OUT, 1) > sqnr_db(model, plain, HELD_OUT, 1)


def test_the_model_is_left_as_it_was(model: ir.Model, costs: Costs) -> None:
    before = clone(model)
    weights_only(model, 4, asking(DATA), costs)
    assert [n.op_type for n in model.graph] == [n.op_type for n in before.graph]
    assert list(model.graph.initializers) == list(before.graph.initializers)


def test_without_data_weights_are_rounded_to_nearest(model: ir.Model, costs: Costs) -> None:
    kept = weights_only(model, 4, asking(None), costs)
    assert replace(kept, accuracy_level=4, notes=()) == QuantizeWeights(bits=4)


def test_moments_that_do_not_fit_leave_gptq_out(model: ir.Model, costs: Costs) -> None:
    room = 2 * 8 * 96**2  # half of it is for matrices, and those of x take all of that
    assert set(weights_only(model, 4, asking(DATA, max_ram=room), costs).moments) == {"node_h"}
    assert weights_only(model, 4, asking(DATA, max_ram=room - 1), costs).method != "gptq"


def test_activations_stay_fp32_where_rounding_them_costs_more_than_the_weights_did(
    model: ir.Model, costs: Costs
) -> None:
    """One input in each block is 1000 times the others, which int8 then rounds to nothing."""

    def loud() -> Iterator[Feeds]:
        for feeds in batches():
            x = feeds["x"].copy()
            x[:, ::32] *= 1000
            yield {"x": x}

    quiet = model.graph.initializers["w"]
    assert quiet.const_value is not None
    w = quiet.const_value.numpy().copy()
    w[::32] = 0  # what is loud has no say in the product, so that the weights' own rounding costs little
    quiet.const_value = ir.tensor(w, name="w")
    assert weights_only(model, 8, asking(Dataset("loud", loud)), costs).accuracy_level == 0


@pytest.mark.parametrize(("ratio", "level"), [(0.5, 4), (2.0, 0)])
def test_int8_activations_are_let_in_where_they_cost_little_and_are_faster(
    ratio: float, level: int, model: ir.Model, costs: Costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is stated: whether they are faster is the machine's affair."""
    timed = Cost(before_ns=1.0, after_ns=ratio, ratio=Estimate(value=ratio, low=ratio, high=ratio))
    monkeypatch.setattr(Costs, "whole", lambda *_, **__: timed)
    assert weights_only(model, 8, asking(DATA), costs).accuracy_level == level


STATED = Int4(method="hqq", symmetric=False, block_size=16, table_bits=8, accuracy_level=0, exclude=("node_h",))


@pytest.mark.parametrize("data", [None, DATA])
def test_what_the_recipe_states_is_not_decided(data: Dataset | None, model: ir.Model, costs: Costs) -> None:
    kept = weights_only(model, 4, replace(asking(data), int4=STATED), costs)
    assert (kept.method, kept.symmetric, kept.block_size) == ("hqq", False, 16)
    assert (kept.table_bits, kept.accuracy_level, kept.exclude) == (8, 0, ("node_h",))


def test_what_the_recipe_leaves_open_is_decided(model: ir.Model, costs: Costs) -> None:
    kept = weights_only(model, 4, replace(asking(DATA), int4=Int4(symmetric=True)), costs)
    assert (kept.method, kept.symmetric) == ("gptq", True)


@pytest.mark.parametrize(("data", "says"), [(None, "give the recipe a calibration set"), (DATA, "raise max_ram")])
def test_gptq_without_moments_is_refused(data: Dataset | None, says: str, model: ir.Model, costs: Costs) -> None:
    recipe = replace(asking(data, max_ram=1000), int4=Int4(method="gptq"))
    with pytest.raises(Unsupported, match=says):
        weights_only(model, 4, recipe, costs)


@pytest.mark.parametrize(("loud", "level"), [(False, 4), (True, 0)])
def test_without_data_activations_are_judged_on_seeded_inputs(
    loud: bool, level: int, model: ir.Model, costs: Costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is stated. One value in each block is 1000 times the others, and has no say in the second product."""
    timed = Cost(before_ns=1.0, after_ns=0.5, ratio=Estimate(value=0.5, low=0.5, high=0.5))
    monkeypatch.setattr(Costs, "whole", lambda *_, **__: timed)
    if loud:
        first, second = (model.graph.initializers[name] for name in "wv")
        assert first.const_value is not None
        assert second.const_value is not None
        w, v = first.const_value.numpy().copy(), second.const_value.numpy().copy()
        w[:, ::32] *= 1000
        v[::32] = 0
        first.const_value, second.const_value = ir.tensor(w, name="w"), ir.tensor(v, name="v")
    kept = weights_only(model, 8, asking(None), costs)
    assert kept.accuracy_level == level
    assert kept.notes == (f"accuracy_level={level}: {SEEDED}",)


def test_which_precisions_quantize_weights_alone() -> None:
    alone = replace(asking(None), int8=Int8(form="weights"))
    assert [bits_of(p, alone) for p in ("int8", "int4", "fp16", "mixed")] == [8, 4, None, None]
    assert [bits_of(p, asking(None)) for p in ("int8", "int4")] == [None, 4]


def test_int8_of_a_recipe_that_asks_for_weights(model: ir.Model, costs: Costs) -> None:
    recipe = Recipe(name="m", source=model, int8=Int8(form="weights"))  # type: ignore[arg-type]  # never exported here
    built = build("int8", rewrite(model, costs, ()), recipe, costs)
    assert built.model is not None
    assert {n.op_type for n in built.model.graph} == {"MatMulNBits", "Relu"}
    assert {n.attributes.get_int("bits", 0) for n in built.model.graph if n.op_type == "MatMulNBits"} == {8}
    assert "int4" not in " ".join(built.notes)


@pytest.mark.parametrize("coarse", ["table", "product"])
def test_a_table_takes_8_bits_where_it_makes_most_of_the_noise(coarse: str, costs: Costs) -> None:
    rng = np.random.default_rng(3)
    exact = {"t": (40, 64), "v": (64, 32)}
    weights = {name: rng.integers(-8, 8, shape).astype(np.float32) for name, shape in exact.items()}
    weights["t"][:, ::32] = -8  # each block reaches the end of its range: whole numbers are their own levels
    weights["v"][::32] = -8
    name = "t" if coarse == "table" else "v"
    weights[name] += rng.standard_normal(exact[name]).astype(np.float32)
    body = "g (int64[m] i, float[40, 64] t, float[64, 32] v) => (float[m, 32] y) { e = Gather(t, i) y = MatMul(e, v) }"
    data = Dataset("rows", lambda: [{"i": np.arange(40)}])
    at = replace(costs, feeds={"i": np.arange(40)})
    assert weights_only(weighted(body, weights), 4, asking(data), at).table_bits == (8 if coarse == "table" else None)
