"""Places at which a rewrite must fit: counted alike on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from dlc.cost_table import CostTable
from dlc.costs import Costs
from dlc.manifest import ExpectationRecord
from dlc.passes.fuse_gelu import FuseGelu
from dlc.passes.rewrite import Rewrite
from dlc.passes.user_rewrite import adopt
from dlc.stages.expectations import hits
from dlc.stages.rewriting import rewrite
from dlc.target import detect
from tests.cli.conftest import FEATURES, classifier
from tests.stages.test_rewriting import Detour, Straighten, Wrong, detours
from tests.stages.test_trust import costs

__all__ = ["costs"]  # a fixture


def count(
    model: ir.Model, costs: Costs, passes: Sequence[Rewrite], expected: dict[str, int]
) -> list[ExpectationRecord]:
    return list(hits(rewrite(model, costs, passes), passes, expected))


def test_what_was_applied_and_what_was_slower_both_fit(costs: Costs) -> None:
    straight, detour = count(
        detours(3), costs, [Straighten(), Detour()], {"straighten": 3, "detour": 1}
    )  # fmt: skip
    assert (straight.expected, straight.found, straight.applied, straight.there) == (3, 3, 3, 0)
    assert (detour.expected, detour.found, detour.applied) == (1, 1, 0)


def test_what_another_machine_has_to_measure_fits_here(costs: Costs) -> None:
    board = replace(detect(), isa=("some", "other"))
    there = replace(costs, target=board, table=CostTable(carried={}))
    [hit] = count(detours(2), there, [Straighten()], {"straighten": 2})
    assert (hit.found, hit.applied) == (2, 0)


def test_what_the_exporter_fused_counts(costs: Costs) -> None:
    model = ir.from_onnx_text(f"""<ir_version: 10, opset_import: ["": 20]>
        g (float[batch, {FEATURES}] x) => (float[batch, {FEATURES}] y) {{ t = Gelu(x)  y = Tanh(t) }}""")
    [hit] = count(model, costs, [FuseGelu()], {"fuse-gelu": 1})
    assert (hit.found, hit.there, hit.applied, hit.reasons) == (1, 1, 0, ())


def test_the_most_frequent_reasons_come_along(costs: Costs) -> None:
    model = detours(0)
    softmax = list(model.graph)[-1]
    softmax.inputs[0].name = "detour_of_its_own"  # type: ignore[union-attr]
    [hit] = count(model, costs, [Detour()], {"detour": 2})
    assert (hit.found, hit.reasons) == (0, ("done (1 places)",))


def test_nothing_expected_costs_nothing(costs: Costs) -> None:
    assert hits(rewrite(classifier(), costs, ()), (), {}) == ()


def test_a_rewrite_that_was_left_out_is_found_nowhere_and_says_why(costs: Costs) -> None:
    [wrong] = adopt([Wrong()])
    [hit, other] = count(detours(3), costs, [wrong, Straighten()], {"wrong": 2, "straighten": 2})
    assert (hit.found, hit.applied) == (0, 0)
    assert hit.reasons[0].startswith("left out: changed output")
    assert (other.found, other.applied) == (3, 3)


def test_counting_changes_no_graph(costs: Costs) -> None:
    passes = [Straighten()]
    done = rewrite(detours(2), costs, passes)
    assert done.canonical is not None
    before = [n.op_type for n in done.canonical.graph]
    hits(done, passes, {"straighten": 2})
    assert [n.op_type for n in done.canonical.graph] == before
