"""The search of a mix on a real model: real kernels, real calibration data, a journal on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from dlc.contract import DataContract, Labels
from dlc.cost_table import CostTable
from dlc.costs import Costs
from dlc.errors import Unsupported
from dlc.export import export
from dlc.feeds import measured_sizes
from dlc.interface import Interface
from dlc.manifest import Estimate
from dlc.models import digits_cnn
from dlc.passes.base import Pass
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.fold_batch_norm import FoldBatchNorm
from dlc.pipeline import run
from dlc.recipe import Dataset, Recipe
from dlc.runtimes.session import SessionConfig
from dlc.search import Measured, Mix, Mixing, Objective
from dlc.stages import mixing
from dlc.stages.mixing import halves, mix, neighbours
from dlc.stages.rewriting import Rewritten
from dlc.stages.variants import PASSES_OF, Build, build
from dlc.stages.workshop import Workshop, file_bytes, leaving
from dlc.target import detect
from dlc.types import Array, Feeds
from tests.cli.conftest import FEATURES, classifier

INT8 = PASSES_OF["int8"]
FEW = 5
"""Evaluations: enough to choose among the five units of digits-cnn."""


@pytest.fixture(scope="module")
def network() -> tuple[Recipe, ir.Model, Costs]:
    recipe, target = digits_cnn.recipe(), detect()
    exported = export(recipe, opset=target.opset, ir_version=target.ir_version, seed=0)
    run(exported.model, [Canonicalize(), FoldBatchNorm()])
    costs = Costs.at(
        target, Interface.of(exported.model), exported.inputs, measured_sizes(exported.dims)[:1], table=CostTable()
    )
    return recipe, exported.model, costs


def asking(recipe: Recipe, evaluations: int = FEW, seconds: float = 600.0, **objective: float) -> Recipe:
    return replace(recipe, mixed=Mixing(Objective(**objective), evaluations, seconds))  # type: ignore[arg-type]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Mix]:
    """Record which mixes are really built and measured."""
    seen: list[Mix] = []
    measure = Workshop.measure

    def recorded(self: Workshop, chosen: Mix) -> Measured:
        seen.append(chosen)
        return measure(self, chosen)

    monkeypatch.setattr(Workshop, "measure", recorded)
    return seen


def test_digits_cnn_finds_a_mix_and_a_second_search_measures_nothing(
    network: tuple[Recipe, ir.Model, Costs], tmp_path: Path, measured: list[Mix]
) -> None:
    recipe, model, costs = network
    costs = replace(costs, table=CostTable(tmp_path / "costs.sqlite", seen=dict(costs.table.seen)))
    found = mix(model, asking(recipe, keep=0.99), costs, INT8)
    assert found.reason == ""
    chosen, record = found.record.chosen, found.record
    assert chosen is not None
    assert chosen.kept.value >= 0.99
    assert record.plain.excluded == ()
    assert 1 <= record.evaluations == len(measured) <= FEW
    assert record.front[-1].kept.value == 1.0  # FP32, or what keeps all of it
    assert [m.ratio.value for m in record.front] == sorted(m.ratio.value for m in record.front)
    measured.clear()
    again = mix(model, asking(recipe, keep=0.99), replace(costs, table=CostTable(costs.table.file)), INT8)
    assert measured == []
    assert again.record == found.record
    assert [p.options for p in again.passes] == [p.options for p in found.passes]


def test_an_interrupted_search_goes_on_where_it_stopped(
    network: tuple[Recipe, ir.Model, Costs], tmp_path: Path, measured: list[Mix], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, model, costs = network
    costs = replace(costs, table=CostTable(tmp_path / "costs.sqlite", seen=dict(costs.table.seen)))
    asked, kept, alone = asking(recipe, keep=0.99999), Workshop.keeps, list[str]()

    def interrupted(self: Workshop, changed: list[ir.Model], dataset: Dataset) -> object:
        alone.append(dataset.name)
        if len(alone) == 3:
            raise KeyboardInterrupt
        return kept(self, changed, dataset)

    with monkeypatch.context() as patch:
        patch.setattr(Workshop, "keeps", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mix(model, asked, costs, INT8)
    [journal] = (tmp_path / "searches").iterdir()
    assert len(journal.read_text().splitlines()) == 2
    mix(model, asked, costs, INT8)
    lines = journal.read_text().splitlines()
    assert sum('"sensitivity"' in line for line in lines) == 5
    assert sum('"evaluation"' in line for line in lines) == len(measured)


def test_another_prediction_is_measured_anew(
    network: tuple[Recipe, ir.Model, Costs], tmp_path: Path, measured: list[Mix]
) -> None:
    recipe, model, costs = network
    costs = replace(costs, table=CostTable(tmp_path / "costs.sqlite", seen=dict(costs.table.seen)))
    mix(model, asking(recipe, evaluations=1), costs, INT8)
    measured.clear()
    edited = replace(recipe, prediction=lambda _, outputs: -next(iter(outputs.values())))
    mix(model, asking(edited, evaluations=1), costs, INT8)
    assert len(measured) == 1


def test_other_objectives_use_what_was_measured(
    network: tuple[Recipe, ir.Model, Costs], tmp_path: Path, measured: list[Mix]
) -> None:
    recipe, model, costs = network
    costs = replace(costs, table=CostTable(tmp_path / "costs.sqlite", seen=dict(costs.table.seen)))
    plain = mix(model, asking(recipe, evaluations=1), costs, INT8).record.plain
    measured.clear()
    found = mix(model, asking(recipe, evaluations=1, within_bytes=plain.bytes), costs, INT8)
    assert measured == []
    assert found.record.chosen == plain
    assert found.record.stopped == "1 mixes were evaluated"


def test_an_objective_that_nothing_meets_names_the_nearest(network: tuple[Recipe, ir.Model, Costs]) -> None:
    recipe, model, costs = network
    found = mix(model, asking(recipe, evaluations=2, within_bytes=1000), costs, INT8)
    assert found.passes == ()
    assert found.record.chosen is None
    assert "no mix is the most accurate within 0.001 MB; the nearest keeps " in found.reason
    built = build("mixed", Rewritten(model), asking(recipe, evaluations=2, within_bytes=1000), costs)
    assert built.model is None
    assert built.reason == found.reason
    assert built.search is not None


def test_where_fp32_is_fast_enough_there_is_nothing_to_mix(network: tuple[Recipe, ir.Model, Costs]) -> None:
    recipe, model, costs = network
    found = mix(model, asking(recipe, evaluations=1, within_ms=1e6), costs, INT8)
    assert "that is FP32 itself" in found.reason


def test_where_no_mix_is_faster_than_fp32_there_is_nothing_to_mix(
    network: tuple[Recipe, ir.Model, Costs], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, model, costs = network
    measure = Workshop.measure

    def slow(self: Workshop, chosen: Mix) -> Measured:
        return msgspec.structs.replace(measure(self, chosen), ratio=Estimate(value=1.1, low=1.09, high=1.11))

    monkeypatch.setattr(Workshop, "measure", slow)
    found = mix(model, asking(recipe, evaluations=1, keep=0.5), replace(costs, table=CostTable()), INT8)
    assert found.passes == ()
    assert "the fastest that keeps 50 % of FP32: that is FP32 itself" in found.reason


def test_where_fp32_is_small_enough_nothing_is_calibrated_or_measured(
    network: tuple[Recipe, ir.Model, Costs], measured: list[Mix]
) -> None:
    recipe, model, costs = network
    size = file_bytes(model)
    with pytest.raises(Unsupported, match="that is FP32 itself, at "):
        mix(model, asking(recipe, within_bytes=size), costs, _never)
    assert measured == []
    with pytest.raises(AssertionError, match="int8 was asked for"):  # a byte less, and a search it is
        mix(model, asking(recipe, within_bytes=size - 1), costs, _never)


def _never(*_: object) -> list[Pass]:
    raise AssertionError("int8 was asked for")


def test_nodes_left_out_are_in_the_variant(network: tuple[Recipe, ir.Model, Costs]) -> None:
    recipe, model, costs = network
    built: Build = build("mixed", Rewritten(model), asking(recipe, keep=0.9), costs)
    assert built.model is not None
    assert built.search is not None
    assert built.search.chosen is not None
    assert built.quantized is not None
    assert [n.partition(":")[0] for n in built.notes] == ["the fastest that keeps 90 % of FP32"]
    assert {s.node for s in built.quantized.left if s.reason == "excluded"} == set(built.search.chosen.excluded)


def test_every_mix_has_the_ranges_it_needs(network: tuple[Recipe, ir.Model, Costs]) -> None:
    recipe, model, costs = network
    assert recipe.calibration is not None
    passes = mixing._complete(INT8(model, recipe, costs.target), model, recipe.calibration, costs)
    workshop = Workshop(model, [passes], recipe, costs, recipe.calibration)
    for name in (names := workshop.names):
        changed = ir.Model.clone(model)
        [*_, record] = run(changed, leaving(passes, [n for n in names if n != name]))
        assert [s.node for s in record.sites if s.applied and s.node in names] == [name]


def test_neighbours_pass_a_value_on_or_read_the_same(network: tuple[Recipe, ir.Model, Costs]) -> None:
    _, model, _ = network
    names = [n.name or "" for n in model.graph if n.op_type in ("Conv", "Gemm")]
    pairs = dict(neighbours(model, names))
    assert set(pairs) >= set(pairwise(names))
    assert all(a in between and b in between for (a, b), between in pairs.items())


def rows(count: int, size: int, targets: Array | None = None) -> Dataset:
    def batches() -> Iterator[Feeds]:
        x = np.arange(count * FEATURES, dtype=np.float32).reshape(count, FEATURES)
        return ({"x": x[i : i + size]} for i in range(0, count, size))

    return Dataset("rows", batches, None if targets is None else lambda: targets)


def test_halves_share_no_example_and_targets_go_along() -> None:
    chooses, judges = halves(rows(10, 4, np.arange(10)))
    assert [f["x"][0, 0] / FEATURES for f in chooses.batches()] == [0, 8]
    assert [f["x"][0, 0] / FEATURES for f in judges.batches()] == [4]
    assert chooses.targets is not None
    assert judges.targets is not None
    assert chooses.targets().tolist() == [0, 1, 2, 3, 8, 9]
    assert judges.targets().tolist() == [4, 5, 6, 7]


def test_targets_of_pairs_go_with_their_pairs() -> None:
    chooses, judges = halves(rows(12, 4, np.arange(6)))
    assert chooses.targets is not None
    assert judges.targets is not None
    assert chooses.targets().tolist() == [0, 1, 4, 5]
    assert judges.targets().tolist() == [2, 3]


def test_a_target_for_each_uneven_batch_goes_with_its_batch() -> None:
    batches = [{"x": np.zeros((n, FEATURES), np.float32)} for n in (8, 2, 2, 4)]
    chooses, judges = halves(Dataset("voices", lambda: iter(batches), lambda: np.arange(4)))
    assert chooses.targets is not None
    assert judges.targets is not None
    assert (chooses.targets().tolist(), judges.targets().tolist()) == ([0, 2], [1, 3])


def test_a_half_need_not_hold_what_is_promised_of_the_whole() -> None:
    promised = DataContract(id="sorted", version="1", targets=Labels(classes=(0, 1), least_share=0.4))
    whole = replace(rows(8, 4, np.repeat([0, 1], 4)), contract=promised)
    assert whole.targets is not None
    assert whole.targets().tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    for half, label in zip(halves(whole), (0, 1), strict=True):
        assert half.targets is not None
        assert half.targets().tolist() == [label] * 4


def test_one_batch_cannot_be_halved() -> None:
    with pytest.raises(Unsupported, match="comes in one batch"):
        halves(rows(4, 4))


def test_without_data_there_is_no_search() -> None:
    recipe = Recipe(name="centres", source=classifier)  # type: ignore[arg-type]  # never exported here
    costs = Costs(detect(), SessionConfig(), {"x": np.zeros((8, FEATURES), np.float32)})
    with pytest.raises(Unsupported, match="calibration set"):
        mix(classifier(), recipe, costs, INT8)


def test_a_model_without_units_says_so() -> None:
    model = ir.from_onnx_text(f"""<ir_version: 10, opset_import: ["": 20]>
        g (float[n, {FEATURES}] x) => (float[n, {FEATURES}] y) {{ y = Neg(x) }}""")
    recipe = Recipe(name="none", source=classifier, calibration=rows(8, 4))  # type: ignore[arg-type]
    costs = Costs(detect(), SessionConfig(), {"x": np.zeros((8, FEATURES), np.float32)})
    with pytest.raises(Unsupported, match="no node can compute in 8 bits"):
        mix(model, recipe, costs, INT8)
