"""A run of nodes stays in FP32 if it makes much of the noise, at next to no price; else 8 bits stay everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc.cost_table import Cost
from dlc.costs import Costs
from dlc.errors import NotHere
from dlc.manifest import Estimate
from dlc.passes.base import Pass
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.quantization import Int8
from dlc.recipe import Dataset, Recipe
from dlc.runtimes.session import SessionConfig
from dlc.stages.recovering import closeness
from dlc.stages.sparing import ROOM, descent, spared
from dlc.target import detect
from dlc.types import Feeds
from tests.passes.weights import weighted

LAYERS, WIDTH, WIDE = 16, 32, 4096
LOUD = 5


def batches() -> Iterator[Feeds]:
    """Activations whose first feature is 0."""
    rng = np.random.default_rng(3)
    drawn = (rng.standard_normal((32, WIDTH)).astype(np.float32) for _ in range(3))
    return ({"x": x * (np.arange(WIDTH) > 0).astype(np.float32)} for x in drawn)


DATA = Dataset("noise", batches)
QUANTIZED: list[Pass] = [QuantizeDynamic(reduce_range=False)]


def chain(dead: float) -> ir.Model:
    """Products in a residual stream, the last by far the largest. In one, weights of what is always 0 are ``dead``.

    If they are large, they alone set the scales, and 8 bits leave nothing of the others.
    """
    steps = "\n".join(f"p{i} = MatMul(h{i}, w{i}) h{i + 1} = Add(h{i}, p{i})" for i in range(LAYERS))
    names = ", ".join(f"float[{WIDTH}, {WIDTH}] w{i}" for i in range(LAYERS))
    rng = np.random.default_rng(5)
    body = f"""g (float[m, {WIDTH}] x, {names}, float[{WIDTH}, {WIDE}] last) => (float[m, {WIDE}] y) {{
        h0 = Relu(x) {steps} y = MatMul(h{LAYERS}, last)
    }}"""
    weights = {f"w{i}": 0.02 * rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) for i in range(LAYERS)}
    for each in weights.values():
        each[:, 0] = 0  # the first feature stays 0
    weights[f"w{LOUD}"][0, 1:] = dead
    weights["last"] = rng.standard_normal((WIDTH, WIDE)).astype(np.float32)
    made = weighted(body, weights)
    for value in (v for node in made.graph for v in node.outputs):
        value.dtype = ir.DataType.FLOAT
        value.shape = ir.Shape(["m", WIDE if value.name == "y" else WIDTH])
    return made


def timed(ratio: float) -> Callable[..., Cost]:
    """The time is stated: which is slower is the machine's affair."""
    return lambda *_, **__: Cost(before_ns=1.0, after_ns=ratio, ratio=Estimate(value=ratio, low=ratio, high=ratio))


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> Costs:
    monkeypatch.setattr(Costs, "whole", timed(1 + ROOM / 2))
    return Costs(detect(), SessionConfig(), next(batches()))


def declared(data: Dataset | None = DATA, **options: object) -> Recipe:
    return Recipe(name="m", source=Path("m.onnx"), calibration=data, **options)  # type: ignore[arg-type]


def test_the_one_product_that_makes_the_noise_stays_in_fp32(costs: Costs) -> None:
    model = chain(dead=10.0)
    [form] = spared(model, QUANTIZED, declared(), costs)
    assert isinstance(form, QuantizeDynamic)
    assert f"node_p{LOUD}" in form.exclude
    assert "node_y" not in form.exclude  # its weights are more than there is room for
    [note] = form.notes
    assert "in FP32 for accuracy" in note
    before, after = (closeness(model, each, DATA, 1).overall.sqnr_db for each in (QUANTIZED, form))
    assert f"{after - before:.1f} dB closer" in note
    assert after > before + 10 * np.log10(4 / 3)  # a quarter of the noise is gone, or more


def test_where_the_last_product_makes_the_noise_its_size_is_too_much(costs: Costs) -> None:
    assert spared(chain(0.0), QUANTIZED, declared(), costs) is QUANTIZED


def test_a_price_in_time_is_not_paid(costs: Costs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Costs, "whole", timed(1 + 2 * ROOM))
    assert spared(chain(10.0), QUANTIZED, declared(), costs) is QUANTIZED


def test_on_another_machine_s_costs_8_bits_stay(costs: Costs, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(*_: object, **__: object) -> Cost:
        raise NotHere("not measured on the target")

    monkeypatch.setattr(Costs, "whole", elsewhere)
    assert spared(chain(10.0), QUANTIZED, declared(), costs) is QUANTIZED


def test_nothing_is_spared_unasked_or_without_data(costs: Costs) -> None:
    model = chain(10.0)
    assert spared(model, QUANTIZED, declared(None), costs) is QUANTIZED
    assert spared(model, QUANTIZED, declared(int8=Int8(recover=("learn-rounding",))), costs) is QUANTIZED


def test_what_the_recipe_excludes_stays_excluded(costs: Costs) -> None:
    stated: list[Pass] = [QuantizeDynamic(reduce_range=False, exclude=("node_p0",))]
    [form] = spared(chain(10.0), stated, declared(), costs)
    assert isinstance(form, QuantizeDynamic)
    assert form.exclude[0] == "node_p0"
    assert f"node_p{LOUD}" in form.exclude


def test_the_way_down_follows_the_noise_with_two_looks_a_step() -> None:
    looked: list[Sequence[str]] = []

    def gone(names: Sequence[str]) -> float:
        looked.append(names)
        return 0.5 * ("f" in names) + 0.01 * len(names)

    assert ["".join(run.names) for run in descent(gone, "abcdefg")] == ["efg", "ef", "f"]
    assert len(looked) == 6


def test_of_one_node_or_none_there_is_no_part() -> None:
    assert not list(descent(lambda _: 1.0, "a"))
    assert not list(descent(lambda _: 1.0, ""))
