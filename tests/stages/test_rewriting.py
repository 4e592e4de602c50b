"""Places chosen one by one: what stays, what is rolled back, what is left out, each with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import onnx_ir as ir
import pytest

from dlc.cost_table import Cost, CostTable
from dlc.costs import NOISE, Costs
from dlc.errors import ModelError
from dlc.manifest import Estimate
from dlc.passes.base import Rewritten as PassResult
from dlc.passes.base import all_nodes
from dlc.passes.edit import Edit
from dlc.passes.fuse_gemm import FuseGemm
from dlc.passes.rewrite import Rewrite
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.stages.defaults import rewrites
from dlc.stages.rewriting import Rewritten, rewrite
from dlc.target import detect
from dlc.types import Feeds, Outputs
from tests.cli.conftest import FEATURES, classifier
from tests.passes.weights import weighted

STEPS = 40


@pytest.fixture
def costs() -> Costs:
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(n, FEATURES)).astype(np.float32)} for n in (8, 1)]
    return Costs(detect(), SessionConfig(), feeds[0], (feeds[1],))


def detours(count: int) -> ir.Model:
    """A chain of x -> sinh -> asinh, ``count`` times, between two operators."""
    steps = "".join(
        f"s{i} = Sinh(t{i}) t{i + 1} = Asinh(s{i}) " for i in range(count)
    )  # fmt: skip
    return ir.from_onnx_text(f"""<ir_version: 10, opset_import: ["": 20]>
        detours (float[batch, {FEATURES}] x) => (float[batch, {FEATURES}] y)
        {{ t0 = Tanh(x) {steps} y = Softmax(t{count}) }}""")


@dataclass(frozen=True)
class Straighten(Rewrite):
    """Sinh and Asinh in turn change nothing: a Sum of one operand does not either."""

    name: ClassVar[str] = "straighten"
    op: ClassVar[str] = "Sum"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return (n for n in graph if n.op_type == "Sinh")

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        [use] = node.outputs[0].uses()
        y = use.node.outputs[0]
        edit.replace(
            use.node, edit.node(self.op, [node.inputs[0]], f"{node.name}.straight", dtype=y.dtype, shape=y.shape)
        )
        return None


@dataclass(frozen=True)
class Shorten(Straighten):
    """The same in other words."""

    name: ClassVar[str] = "shorten"
    op: ClassVar[str] = "Max"


@dataclass(frozen=True)
class Detour(Rewrite):
    """Lead a Softmax's input through Sinh and Asinh, ``steps`` times: a slower form of the same."""

    name: ClassVar[str] = "detour"
    steps: int = STEPS

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return (n for n in graph if n.op_type == "Softmax" and n.inputs[0] is not None)

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        last = node.inputs[0]
        assert last is not None
        if last.producer() is not None and str(last.name).startswith("detour"):
            return "done"
        nodes = []
        for i in range(self.steps):
            new = edit.node("Asinh" if i % 2 else "Sinh", [last], f"detour_{i}", dtype=last.dtype, shape=last.shape)
            nodes.append(new)
            last = new.outputs[0]
        y = node.outputs[0]
        edit.replace(node, [*nodes, edit.node("Softmax", [last], f"{node.name}.late", dtype=y.dtype, shape=y.shape)])
        return None


@dataclass(frozen=True)
class LongOrShort(Detour):
    """Two forms of one detour, the long one preferred."""

    name: ClassVar[str] = "long-or-short"

    def alternatives(self) -> tuple[Self, ...]:
        return (self, replace(self, steps=2))


@dataclass(frozen=True)
class Unrunnable(Rewrite):
    """Ask for an operator that no runtime knows."""

    name: ClassVar[str] = "unrunnable"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return (n for n in graph if n.op_type == "Softmax")

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        y = node.outputs[0]
        edit.require("acme")
        new = edit.node("Soft", [node.inputs[0]], "soft", dtype=y.dtype, shape=y.shape, domain="acme")
        edit.replace(node, new)
        return None


@dataclass(frozen=True)
class Wrong(Straighten):
    """Faster than Sinh and Asinh in turn, and not the same."""

    name: ClassVar[str] = "wrong"
    op: ClassVar[str] = "Neg"


@dataclass(frozen=True)
class Untidy(Straighten):
    """Leave an operator behind that no runtime knows: the place alone is sound, the whole does not load."""

    name: ClassVar[str] = "untidy"

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        edit.require("acme")
        edit.graph.append(edit.node("Soft", [node.inputs[0]], "left", dtype=ir.DataType.FLOAT, shape=[], domain="acme"))
        return super().rewrite(node, edit)


@dataclass(frozen=True)
class Liar(Rewrite):
    """Change nothing and say the opposite."""

    name: ClassVar[str] = "liar"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return graph

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:  # noqa: ARG002 - what a rewrite is given
        return None


Price = Callable[[str, int], float]
"""Nanoseconds that an operator takes, by its name and the size of the batch; it may raise what a runtime would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated(Costs):
    """Costs that are stated, not measured, of places ``alone`` and of whole models ``together``."""

    alone: Price
    together: Price

    def place(self, key: str, before: ir.Model, after: ir.Model | None, values: Feeds) -> Cost:
        batch = len(next(iter(values.values())))
        return self._remember(key, _ratio(*(_total(m, self.alone, batch) for m in (before, after))))

    def whole(self, before: ir.Model, after: ir.Model, *, rounds: int = 0) -> Cost:  # noqa: ARG002 - as Costs has it
        return _ratio(*(_total(m, self.together, len(self.feeds["x"])) for m in (before, after)))


def _total(model: ir.Model | None, price: Price, batch: int) -> float:
    return sum(price(n.op_type, batch) for n in all_nodes(model.graph)) if model is not None else 0.0


def _ratio(before: float, after: float) -> Cost:
    ratio = after / before
    return Cost(before_ns=before, after_ns=after, ratio=Estimate(value=ratio, low=ratio - 0.001, high=ratio + 0.001))


def stated(costs: Costs, alone: Price, together: Price | None = None) -> Costs:
    """State costs in the place of those that are measured; the whole costs what its places do unless said otherwise."""
    return Stated(costs.target, costs.config, costs.feeds, costs.bounds, alone=alone, together=together or alone)


def price(**ops: float) -> Price:
    """State what some operators take, in the whole and alone, at any size; every other takes 10 ns."""
    return lambda op, _: ops.get(op, 10.0)


def only_site(done: Rewritten) -> tuple[str | None, float | None]:
    [site] = done.records[-1].sites
    return site.reason, site.ratio


def ops(done: Rewritten) -> list[str]:
    return [n.op_type for n in done.model.graph]


def test_a_faster_form_is_applied_with_its_ratio(costs: Costs) -> None:
    done = rewrite(detours(1), costs, [Straighten()])
    reason, ratio = only_site(done)
    assert reason is None
    assert ratio is not None
    assert ratio < 1
    assert ops(done) == ["Tanh", "Sum", "Softmax"]
    assert done.choices[-1].rewrite == "all"


def test_identical_places_are_measured_once(costs: Costs) -> None:
    done = rewrite(detours(4), costs, [Straighten()])
    assert [s.applied for s in done.records[-1].sites] == [True] * 4
    places, points, whole_models = 1, 2, 1
    assert len(costs.table.seen) == places * points + whole_models


def test_a_second_run_measures_nothing(costs: Costs, tmp_path: Path) -> None:
    first = replace(costs, table=CostTable(tmp_path / "costs.sqlite"))
    done = rewrite(detours(2), first, [Straighten(), Detour()])
    again = replace(costs, table=CostTable(tmp_path / "costs.sqlite"))
    before = again.table.everything(again.fingerprint)
    repeated = rewrite(detours(2), again, [Straighten(), Detour()])
    assert again.table.everything(again.fingerprint) == before
    assert repeated.choices == done.choices
    assert [r.sites for r in repeated.records] == [r.sites for r in done.records]


def test_a_slower_form_is_left_with_its_ratio(costs: Costs) -> None:
    done = rewrite(classifier(), costs, [Detour()])
    assert ops(done) == ["Gemm", "Softmax"]
    reason, ratio = only_site(done)
    assert reason is not None
    assert reason.endswith("x: slower on this target")
    assert ratio is not None
    assert ratio > 1
    assert not done.records[-1].modified


def test_of_two_forms_the_faster_is_compared(costs: Costs) -> None:
    done = rewrite(detours(0), costs, [LongOrShort()])
    assert ops(done) == ["Tanh", "Softmax"]
    both = only_site(done)
    short, long = (only_site(rewrite(detours(0), costs, [Detour(steps=n)])) for n in (2, STEPS))
    assert both == short
    assert both != long


def test_a_form_that_is_slower_at_a_bound_is_left_with_the_size(costs: Costs) -> None:
    slower_alone = stated(costs, lambda op, batch: 50.0 if op == "Sum" and batch == 1 else 10.0)
    done = rewrite(detours(1), slower_alone, [Straighten()])
    assert ops(done) == ["Tanh", "Sinh", "Asinh", "Softmax"]
    reason, ratio = only_site(done)
    assert reason == "2.50x at batch=1: slower on this target"
    assert ratio == 0.5  # the typical one


def test_a_form_that_is_no_slower_than_noise_at_a_bound_is_applied(costs: Costs) -> None:
    as_slow = stated(costs, lambda op, batch: 20 * (1 + NOISE) if op == "Sum" and batch == 1 else 10.0)
    assert ops(rewrite(detours(1), as_slow, [Straighten()])) == ["Tanh", "Sum", "Softmax"]


def test_what_gains_alone_and_not_on_the_whole_is_rolled_back_and_the_next_gets_its_turn(costs: Costs) -> None:
    fuller = stated(costs, price(), price(Sum=60.0))
    done = rewrite(detours(1), fuller, [Straighten(), Shorten()])
    assert ops(done) == ["Tanh", "Max", "Softmax"]
    _, first, second = done.records
    assert [s.reason for s in first.sites] == ["2.00x on the whole model: slower on this target"]
    assert (first.modified, first.nodes_after) == (False, first.nodes_before)
    assert [s.applied for s in second.sites] == [True]
    assert [(c.rewrite, c.kept, c.ratio.value, c.predicted) for c in done.choices] == [
        ("straighten", False, 2.0, 0.75), ("shorten", True, 0.75, 0.75), ("all", True, 0.75, 0.75),
    ]  # fmt: skip


def test_a_whole_that_falls_short_but_gains_keeps_what_holds(costs: Costs) -> None:
    done = rewrite(detours(1), stated(costs, price(), price(Sum=19.0)), [Straighten()])
    assert ops(done) == ["Tanh", "Sum", "Softmax"]
    assert [c.rewrite for c in done.choices] == ["straighten", "all"]


def test_a_rewrite_whose_whole_does_not_load_is_rolled_back(costs: Costs) -> None:
    done = rewrite(detours(1), costs, [Untidy(), Straighten()])
    assert ops(done) == ["Tanh", "Sum", "Softmax"]
    [untidy] = done.records[1].sites
    assert str(untidy.reason).startswith("the whole model cannot be measured: ONNX Runtime")
    assert not done.records[1].modified
    assert [c.rewrite for c in done.choices] == ["straighten", "all"]


def test_if_no_whole_can_be_measured_no_rewrite_ships(costs: Costs) -> None:
    def fails(op: str, batch: int) -> float:
        raise ModelError(f"no memory for {op} at {batch}")

    done = rewrite(detours(1), stated(costs, price(), fails), [Straighten()])
    assert ops(done) == ["Tanh", "Sinh", "Asinh", "Softmax"]
    [site] = done.records[-1].sites
    assert site.reason == "the whole model cannot be measured: no memory for Tanh at 8"
    assert not done.records[-1].modified
    assert (done.choices, done.saved_ns) == ((), 0.0)


def test_a_kept_rewrite_is_taken_back_if_the_outcome_cannot_be_measured(costs: Costs) -> None:
    fails = iter((True, False, True))

    class Short(Stated):
        """Out of memory on some wholes."""

        def whole(self, before: ir.Model, after: ir.Model, *, rounds: int = 0) -> Cost:
            if next(fails):
                raise ModelError("no memory")
            return super().whole(before, after, rounds=rounds)

    short = Short(costs.target, costs.config, costs.feeds, costs.bounds, alone=price(), together=price())
    done = rewrite(detours(1), short, [Straighten()])
    assert ops(done) == ["Tanh", "Sinh", "Asinh", "Softmax"]
    [site] = done.records[-1].sites
    assert site.reason == "the whole model cannot be measured: no memory"
    assert not done.records[-1].modified
    assert done.choices == ()


def test_an_outcome_slower_than_what_was_exported_is_not_shipped(costs: Costs) -> None:
    model = ir.from_onnx_text(f"""<ir_version: 10, opset_import: ["": 20, "local": 1]>
        g (float[batch, {FEATURES}] x) => (float[batch, {FEATURES}] y)
        {{ t = Tanh(x) u = local.Turn(t) y = Softmax(u) }}
        <opset_import: ["": 20], domain: "local">
        Turn (a) => (c) {{ b = Sinh(a) c = Asinh(b) }}""")
    done = rewrite(model, stated(costs, price(Turn=5.0)), [Straighten()])
    assert ops(done) == ["Tanh", "Turn", "Softmax"]
    assert not any(r.modified for r in done.records)
    [site] = done.records[-1].sites
    assert site.reason == "slower on this target, against the graph as it was exported"
    [every] = done.choices
    assert (every.rewrite, every.kept, every.reason, every.ratio.value) == ("all", False, site.reason, 0.75)
    assert done.saved_ns == 0.0


def test_a_place_reads_the_default_of_a_weight_that_may_be_fed(costs: Costs) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(FEATURES, 4)).astype(np.float32), "b": np.ones(4, np.float32)}
    model = weighted(
        f"""g (float[batch, {FEATURES}] x, float[{FEATURES}, 4] w, float[4] b) => (float[batch, 4] y)
            <float[batch, 4] p, float[batch, 4] q> {{ p = MatMul(x, w) q = Add(p, b) y = Tanh(q) }}""",
        weights,
    )
    model.graph.inputs.append(model.graph.initializers["w"])
    done = rewrite(model, costs, [FuseGemm()])
    [site] = [s for record in done.records for s in record.sites]
    assert site.ratio is not None


def test_a_form_that_cannot_be_measured_is_skipped_and_the_rest_goes_on(costs: Costs) -> None:
    done = rewrite(detours(1), costs, [Unrunnable(), Straighten()])
    assert {n.domain for n in done.model.graph} == {""}
    [site] = done.records[-2].sites
    assert site.reason is not None
    assert site.reason.startswith("cannot be measured: ONNX Runtime")
    assert done.records[-1].modified


def test_a_broken_rewrite_is_left_out_and_reported(costs: Costs) -> None:
    done = rewrite(classifier(), costs, [Liar()])
    assert [str(bug).split(":")[0] for bug in done.bugs] == ["pass liar"]
    assert ops(done) == ["Gemm", "Softmax"]


def test_costs_of_another_machine_decide_or_nothing_does(costs: Costs) -> None:
    rewrite(detours(1), costs, [Straighten()])
    board = replace(detect(), isa=("some", "other"))
    carried = {"unrelated": next(iter(costs.table.seen.values()))}
    there = replace(costs, target=board, table=CostTable(carried=carried))
    done = rewrite(detours(1), there, [Straighten()])
    [site] = done.records[-1].sites
    assert site.reason == "not measured on the target: dlc target profile measures it there"


def test_checking_each_pass_leaves_out_the_one_that_changes_numbers_and_keeps_the_rest(costs: Costs) -> None:
    def evaluate(model: ir.Model) -> Outputs:
        with OrtCpuRunner(model, SessionConfig(graph_optimization="none")) as runner:
            return runner.run(costs.feeds)

    done = rewrite(detours(1), costs, [Wrong(), Straighten()], evaluate=evaluate)
    assert ["wrong: changed output 'y'" in str(bug) for bug in done.bugs] == [True]
    assert ops(done) == ["Tanh", "Sum", "Softmax"]


def test_a_place_in_a_subgraph_is_left_with_the_reason(costs: Costs) -> None:
    model = ir.from_onnx_text(f"""<ir_version: 10, opset_import: ["": 20]>
        g (float[batch, {FEATURES}] x) => (float[batch, {FEATURES}] y) <bool c = {{1}}> {{
            total = ReduceSum<keepdims = 0>(x)
            zero = Sub(total, total)
            seen = Equal(zero, total)
            y = If (seen) <
                then_branch = t () => (float[batch, {FEATURES}] u) {{ p = Sinh(x) u = Asinh(p) }},
                else_branch = e () => (float[batch, {FEATURES}] v) {{ v = Neg(x) }}>
        }}""")
    done = rewrite(model, costs, [Straighten()])
    [site] = done.records[-1].sites
    assert site.reason == "cannot be timed on its own: it is in a subgraph"


@pytest.mark.parametrize(("opset", "most"), [(21, 21), (27, 23)])
def test_attention_follows_the_target(opset: int, most: int) -> None:
    [attention] = [p for p in rewrites(replace(detect(), opset=opset)) if p.name == "fuse-attention"]
    assert attention.options["max_opset"] == most


def test_what_a_recipe_states_reaches_the_passes_that_ask() -> None:
    told = {p.name for p in rewrites(detect(), invariants=("some-key-visible",)) if p.options.get("invariants")}
    assert told == {"drop-softmax-guard", "fuse-attention"}
    assert not any(p.options.get("invariants") for p in rewrites(detect()))


def test_a_pass_reports_what_it_replaced() -> None:
    model = detours(1)
    for i, node in enumerate(model.graph):
        node.name = f"n{i}"
    result = Straighten()(model)
    assert isinstance(result, PassResult)
    [site] = result.sites
    assert set(site.before) == {"n1", "n2"}
    assert site.after == ("n1.straight",)
