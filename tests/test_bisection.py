"""Broken passes on real exports: the pass, the site and the first value are named exactly; sound ones pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self, cast

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from dlc import debug
from dlc.bisection import Bisection, Culprit, Kind, Trial, bisect
from dlc.divergence import Divergence
from dlc.errors import ModelError, Unsupported
from dlc.passes.base import Pass, Rewritten, Site
from dlc.passes.edit import Edit
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.passes.rewrite import Rewrite
from dlc.pipeline import digest
from dlc.progress import Silent
from dlc.sources.recipe_files import load_recipe
from dlc.target import detect
from tests.passes.exported import EXPORTERS
from tests.passes.texts import graph

LAYERS, WIDTH, TYPICAL = 6, 8, 3
BATCHES = (TYPICAL, 4, 1)
AT = tuple(f"n={n}" for n in BATCHES)


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


@pytest.fixture(params=sorted(EXPORTERS), scope="module")
def model(request: pytest.FixtureRequest) -> ir.Model:
    torch.manual_seed(0)
    return EXPORTERS[request.param](Layers().eval(), torch.randn(2, WIDTH))


@pytest.fixture
def trials() -> list[Trial]:
    rng = np.random.default_rng(0)
    return [
        Trial(name, {"x": rng.standard_normal((n, WIDTH)).astype(np.float32)})
        for name, n in zip(AT, BATCHES, strict=True)
    ]


def relus(model: ir.Model) -> list[ir.Node]:
    return [n for n in model.graph if n.op_type == "Relu"]


def reader(value: ir.Value) -> ir.Node:
    [use] = value.uses()
    return use.node


def culprit(found: Bisection) -> Culprit:
    assert found.culprit is not None
    return found.culprit


def node_names(found: Culprit) -> list[str]:
    return [s.node for s in found.sites]


@dataclass(frozen=True)
class Floor(Rewrite):
    """Relu becomes Max(x, 0): right, but for what its subclasses do at the nodes named."""

    name: ClassVar[str] = "floor"
    at: tuple[str, ...] = ()

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return (n for n in graph if n.op_type == "Relu")

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        x, y = node.inputs[0], node.outputs[0]
        assert x is not None
        edit.replace(node, self.form(x, y, edit, str(node.name)))
        return None

    def form(self, x: ir.Value, y: ir.Value, edit: Edit, name: str) -> list[ir.Node]:
        floor = edit.constant(f"{name}.floor", np.array(0, np.float32))
        return [edit.node("Max", [x, floor], f"{name}.max", dtype=y.dtype, shape=y.shape)]


@dataclass(frozen=True)
class FloorTooHigh(Floor):
    def form(self, x: ir.Value, y: ir.Value, edit: Edit, name: str) -> list[ir.Node]:
        floor = edit.constant(f"{name}.floor", np.array(0.25 if name in self.at else 0, np.float32))
        return [edit.node("Max", [x, floor], f"{name}.max", dtype=y.dtype, shape=y.shape)]


@dataclass(frozen=True)
class FloorOverwritten(Floor):
    """The second of two sites takes the first one's floor for its own, and raises it."""

    def form(self, x: ir.Value, y: ir.Value, edit: Edit, name: str) -> list[ir.Node]:
        nodes = super().form(x, y, edit, name)
        other = edit.graph.initializers.get(f"{self.at[0]}.floor")
        if name == self.at[1] and other is not None:
            other.const_value = ir.tensor(np.float32(0.5), name=other.name)
        return nodes


@dataclass(frozen=True)
class Root(Floor):
    """The square of a square root, which is NaN below 0."""

    def form(self, x: ir.Value, y: ir.Value, edit: Edit, name: str) -> list[ir.Node]:
        if name not in self.at:
            return super().form(x, y, edit, name)
        root = edit.node("Sqrt", [x], f"{name}.root", dtype=y.dtype, shape=y.shape)
        return [root, edit.node("Mul", [root.outputs[0]] * 2, f"{name}.square", dtype=y.dtype, shape=y.shape)]


@dataclass(frozen=True)
class FixedBatch(Floor):
    """The floor has a row for each example of the typical batch."""

    def form(self, x: ir.Value, y: ir.Value, edit: Edit, name: str) -> list[ir.Node]:
        if name not in self.at:
            return super().form(x, y, edit, name)
        floor = edit.constant(f"{name}.floor", np.zeros((TYPICAL, WIDTH), np.float32))
        return [edit.node("Max", [x, floor], f"{name}.max", dtype=y.dtype, shape=y.shape)]


@dataclass(frozen=True)
class ScaledByBatch(Floor):
    """Times the share of the typical batch: 1 there, something else elsewhere."""

    def form(self, x: ir.Value, y: ir.Value, edit: Edit, name: str) -> list[ir.Node]:
        [floored] = super().form(x, y, edit, name)
        if name not in self.at:
            return [floored]
        shape = edit.node("Shape", [x], f"{name}.n", dtype=ir.DataType.INT64, shape=[1], attributes={"end": 1})
        count = edit.node(
            "Cast", [shape.outputs[0]], f"{name}.f", dtype=ir.DataType.FLOAT, shape=[1], attributes={"to": 1}
        )
        typical = edit.constant(f"{name}.typical", np.array([TYPICAL], np.float32))
        share = edit.node("Div", [count.outputs[0], typical], f"{name}.share", dtype=y.dtype, shape=[1])
        scaled = edit.node("Mul", [floored.outputs[0], share.outputs[0]], f"{name}.y", dtype=y.dtype, shape=y.shape)
        return [floored, shape, count, share, scaled]


@dataclass(frozen=True)
class Crash(Floor):
    def form(self, x: ir.Value, y: ir.Value, edit: Edit, name: str) -> list[ir.Node]:
        if name in self.at:
            raise LookupError("no floor")
        return super().form(x, y, edit, name)


@dataclass(frozen=True)
class LosesNames(Floor):
    """Leaves the site's value without its name, which a graph output may not lose."""

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        y = node.outputs[0]
        if (reason := super().rewrite(node, edit)) is None and str(node.name) in self.at:
            edit.graph.outputs[0].name = f"{y.name}.lost"
        return reason


@dataclass(frozen=True)
class WholeOnly(Floor):
    """Wrong unless some site is skipped: no choice of sites shows it."""

    def form(self, x: ir.Value, y: ir.Value, edit: Edit, name: str) -> list[ir.Node]:
        return FloorTooHigh(at=() if self.skip else (name,)).form(x, y, edit, name)


@dataclass(frozen=True)
class Prepared(Floor):
    """Right at every site; wrong in what it does before."""

    def prepare(self, model: ir.Model) -> None:
        halve_first_bias(model)


@dataclass(frozen=True)
class TwoForms(Floor):
    """The second form is the wrong one."""

    second: bool = False

    def alternatives(self) -> tuple[Self, ...]:
        return (self, replace(self, second=True))

    def form(self, x: ir.Value, y: ir.Value, edit: Edit, name: str) -> list[ir.Node]:
        return FloorTooHigh(at=self.at if self.second else ()).form(x, y, edit, name)


@dataclass(frozen=True)
class HalvesBias(Pass):
    """A pass without sites of its own."""

    name: ClassVar[str] = "halves-bias"
    half: float = field(default=0.5)

    def call(self, model: ir.Model) -> Rewritten:
        halve_first_bias(model)
        return Rewritten(model, modified=True)


def first_bias(model: ir.Model) -> ir.Value:
    return next(v for v in model.graph.initializers.values() if v.shape == (WIDTH,))


def halve_first_bias(model: ir.Model) -> None:
    bias = first_bias(model)
    assert bias.const_value is not None
    bias.const_value = ir.tensor(bias.const_value.numpy() / 2, name=bias.name)


def test_a_sound_pass_is_clean(model: ir.Model, trials: list[Trial]) -> None:
    found = bisect(model, [Floor()], trials)
    assert found.culprit is None
    assert found.feeds == AT
    [step] = found.steps
    assert (step.name, step.sites, step.modified) == ("floor", LAYERS, True)
    assert step.apart <= step.bound


def test_the_model_that_comes_in_stays_as_it_is(model: ir.Model, trials: list[Trial]) -> None:
    before = digest(model)
    bisect(model, [Floor(), Prepared()], trials)
    assert digest(model) == before


@pytest.mark.parametrize("which", range(LAYERS))
def test_one_wrong_site_of_several(model: ir.Model, trials: list[Trial], which: int) -> None:
    wrong = relus(model)[which]
    found = culprit(bisect(model, [FloorTooHigh(at=(str(wrong.name),))], trials))
    assert (found.name, found.kind, found.of) == ("floor", "changes the numbers", LAYERS)
    assert found.sites == (
        Site("floor", str(wrong.name), "Relu", None, (str(wrong.name),), (f"{wrong.name}.max",)),
    )  # fmt: skip
    assert (found.differs_at, found.holds_at) == (AT, ())
    first = found.divergence.first
    assert first is not None
    assert (first.value, first.node, first.op) == (wrong.outputs[0].name, f"{wrong.name}.max", "Max")
    assert (first.expected.there, first.got.there) == (0.0, 0.25)
    assert found.divergence.nan is None


def test_two_sites_that_are_wrong_only_together(model: ir.Model, trials: list[Trial]) -> None:
    pair = str(relus(model)[1].name), str(relus(model)[4].name)
    found = culprit(bisect(model, [FloorOverwritten(at=pair)], trials))
    assert node_names(found) == [*pair]
    assert found.divergence.first is not None
    assert found.divergence.first.value == relus(model)[1].outputs[0].name


def test_nan(model: ir.Model, trials: list[Trial]) -> None:
    wrong = relus(model)[2]
    found = culprit(bisect(model, [Root(at=(str(wrong.name),))], trials))
    assert node_names(found) == [wrong.name]
    first, nan = found.divergence.first, found.divergence.nan
    assert first is not None
    assert first == nan
    assert (first.value, first.op, first.expected.nans) == (wrong.outputs[0].name, "Mul", 0)
    assert first.got.nans > 0
    assert "NaN" in found.problem


def test_wrong_at_other_sizes_only(model: ir.Model, trials: list[Trial]) -> None:
    wrong = relus(model)[3]
    found = culprit(bisect(model, [ScaledByBatch(at=(str(wrong.name),))], trials))
    assert node_names(found) == [wrong.name]
    assert (found.differs_at, found.holds_at) == (AT[1:], AT[:1])
    assert found.divergence.first is not None
    assert found.divergence.first.value == wrong.outputs[0].name
    assert found.divergence.first.apart == pytest.approx(1 / 3, rel=1e-5)  # 4 examples in place of 3


def test_a_graph_that_no_longer_runs_at_another_size(model: ir.Model, trials: list[Trial]) -> None:
    wrong = relus(model)[3]
    found = culprit(bisect(model, [FixedBatch(at=(str(wrong.name),))], trials))
    assert found.kind == "does not run"
    assert f"{wrong.name}.max" in found.problem
    assert node_names(found) == [wrong.name]
    assert (found.differs_at, found.holds_at) == (AT[1:], AT[:1])
    assert found.divergence.first is None


def test_a_crash_names_the_site_and_the_line(model: ir.Model, trials: list[Trial]) -> None:
    wrong = relus(model)[5]
    found = culprit(bisect(model, [Crash(at=(str(wrong.name),))], trials))
    assert found.kind == "crashes"
    assert found.problem.startswith("LookupError: no floor (test_bisection.py:")
    assert node_names(found) == [wrong.name]
    assert found.sites[0].op == "Relu"


def test_a_broken_interface(model: ir.Model, trials: list[Trial]) -> None:
    wrong = relus(model)[2]
    found = culprit(bisect(model, [LosesNames(at=(str(wrong.name),))], trials))
    assert found.kind == "breaks a promise"
    assert "changed the model's interface: output" in found.problem
    assert node_names(found) == [wrong.name]


def test_a_fault_of_no_choice_of_sites_keeps_all(model: ir.Model, trials: list[Trial]) -> None:
    found = culprit(bisect(model, [WholeOnly()], trials))
    assert node_names(found) == [n.name for n in relus(model)]
    assert found.divergence.first is not None
    assert found.divergence.first.value == relus(model)[0].outputs[0].name


def test_a_fault_without_any_site_names_none(model: ir.Model, trials: list[Trial]) -> None:
    found = culprit(bisect(model, [Prepared()], trials))
    assert (found.kind, found.sites, found.of) == ("changes the numbers", (), LAYERS)
    assert found.divergence.first is not None
    assert found.divergence.first.node == reader(first_bias(model)).name


def test_a_pass_without_sites_names_the_first_value(model: ir.Model, trials: list[Trial]) -> None:
    found = culprit(bisect(model, [HalvesBias()], trials))
    assert (found.name, found.sites, found.of, found.options) == ("halves-bias", (), 0, "half=0.5")
    assert found.divergence.first is not None
    assert found.divergence.first.node == reader(first_bias(model)).name


def test_every_form_is_tried(model: ir.Model, trials: list[Trial]) -> None:
    wrong = str(relus(model)[0].name)
    found = bisect(model, [TwoForms(at=(wrong,))], trials)
    assert [s.options.endswith("second=True") for s in found.steps] == [False, True]
    assert culprit(found).options.endswith("second=True")
    assert node_names(culprit(found)) == [wrong]


def test_the_first_of_two_broken_passes_is_named_and_those_before_are_applied(
    model: ir.Model, trials: list[Trial]
) -> None:
    found = bisect(model, [Floor(), HalvesBias(), Prepared()], trials)
    assert [s.name for s in found.steps] == ["floor", "halves-bias"]
    assert culprit(found).name == "halves-bias"


def test_a_pass_sees_what_those_before_it_left(model: ir.Model, trials: list[Trial]) -> None:
    """No Relu is left to be wrong at."""
    found = bisect(model, [Floor(), FloorTooHigh(at=tuple(str(n.name) for n in relus(model)))], trials)
    assert found.culprit is None
    assert [s.modified for s in found.steps] == [True, False]


def test_a_pass_that_changes_numbers_by_design_is_refused(model: ir.Model, trials: list[Trial]) -> None:
    with pytest.raises(Unsupported, match="quantize-dynamic changes the numbers by design"):
        bisect(model, [QuantizeDynamic()], trials)


def test_a_model_that_draws_is_refused() -> None:
    drawn = graph("g (float[n, 2] x) => (float[n, 2] y) { r = RandomNormalLike(x)\n y = Add(x, r) }")
    with pytest.raises(Unsupported, match="draws random numbers"):
        bisect(drawn, [Floor()], [Trial("n=2", {"x": np.ones((2, 2), np.float32)})])


def test_a_model_that_does_not_run_is_the_model_s_fault() -> None:
    sized = graph("g (float[n, 2] x) => (float[n, 2] y) <float[3, 2] w = {1, 1, 1, 1, 1, 1}> { y = Add(x, w) }")
    with pytest.raises(ModelError, match=r"n=2: .*failed while running"):
        bisect(sized, [Floor()], [Trial("n=2", {"x": np.ones((2, 2), np.float32)})])


@pytest.mark.parametrize("name", ["digits-cnn", pytest.param("minilm", marks=pytest.mark.zoo)])
def test_every_pass_is_clean_on(name: str) -> None:
    recipe = load_recipe(name)
    found = debug.bisect_recipe(recipe, detect(), passes=(), dims={}, seed=0, progress=Silent())
    assert found.culprit is None
    assert {s.name for s in found.steps} == {p.name for p in debug.pipeline_passes(detect())}
    assert sum(s.sites for s in found.steps) >= 6
    assert len(found.feeds) == 3 + (recipe.calibration is not None)


def test_sizes_that_are_asked_for_take_the_place_of_all() -> None:
    found = debug.bisect_recipe(
        load_recipe("digits-mlp"), detect(), passes=("gelu",), dims={"batch": 5}, seed=0, progress=Silent()
    )
    assert found.feeds == ("batch=5",)  # calibration data comes in other batches
    assert {s.name for s in found.steps} == {"canonicalize", "fuse-gelu"}


def sample(name: str, kind: str, differs_at: tuple[str, ...] = AT) -> Culprit:
    return Culprit(name, "", cast("Kind", kind), "", (), 0, differs_at, (), Divergence())


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (sample("fuse-gelu", "crashes"), "dlc compile m.onnx"),
        (sample("fuse-gelu", "changes the numbers"), "dlc compile m.onnx --check-each-pass"),
        (sample("fuse-gelu", "changes the numbers", AT[1:]), "no check of a compile would see"),
        (sample("canonicalize", "crashes"), "every compile runs this pass"),
    ],
)
def test_the_way_out(found: Culprit, says: str) -> None:
    assert says in debug.way_out(found, AT[0], detect(), "dlc compile m.onnx")


def test_a_pass_of_the_user_s_own_is_no_bug_of_ours() -> None:
    assert debug.way_out(sample("own", "crashes"), AT[0], detect(), "dlc compile m.onnx") == ""
