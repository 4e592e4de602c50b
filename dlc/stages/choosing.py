"""Which form each place of a graph gets: each is cut out as it is and as it would be, and both are timed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from dlc.cost_table import Cost
from dlc.costs import NOISE, Costs, canonical_text, decide
from dlc.errors import DlcError, NotHere
from dlc.interface import Interface, sizes_of
from dlc.passes.concrete_shapes import evaluate, infer_shapes
from dlc.passes.rewrite import Rewrite
from dlc.pipeline import PassRecord
from dlc.region import Index, cut, idle
from dlc.runtimes.trace import traced
from dlc.types import Feeds, Outputs


@dataclass(frozen=True, eq=False)
class Trial:
    """One form of a rewrite, applied to a copy wherever it fits."""

    form: Rewrite
    model: ir.Model
    record: PassRecord


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a place gets: a trial's form, or none for a reason. ``cost``: of the best form, at the typical sizes."""

    trial: Trial | None
    reason: str
    cost: Cost | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """A place under one form. ``keys``: of its cost, at each point."""

    label: str
    trial: Trial
    before: ir.Model
    after: ir.Model | None
    simpler: bool
    keys: tuple[str, ...]


def choose(model: ir.Model, trials: Sequence[Trial], costs: Costs) -> dict[str, Chosen]:
    """Choose the fastest form of each place by its label, none where nothing is faster or simpler."""
    found = list(_places(model, trials, costs))
    places = [p for p in found if isinstance(p, _Place)]
    measured = _measure(model, places, costs)
    options: dict[str, list[Chosen]] = {}
    for each in found:
        if isinstance(each, _Place):
            options.setdefault(each.label, []).append(_judge(each, measured[each.keys], costs))
        else:
            options.setdefault(each[0], []).append(Chosen(None, each[1]))
    return {label: _best(several) for label, several in options.items()}


def _best(several: list[Chosen]) -> Chosen:
    """Return the form that saves most. Forms come with the preferred first; a later one must save clearly more."""
    best, *others = [c for c in several if c.trial is not None] or several
    for each in others:
        if each.cost and (best.cost is None or each.cost.after_ns < (1 - NOISE) * _time_left(best, each)):
            best = each
    return best


def _time_left(best: Chosen, each: Chosen) -> float:
    """Time the best form leaves, of the time that the other started from: forms need not replace the same nodes."""
    assert best.cost is not None
    assert each.cost is not None
    return each.cost.before_ns - best.cost.saved_ns


def _judge(place: _Place, costs_at: tuple[Cost, ...] | str, costs: Costs) -> Chosen:
    """Keep a form that is faster at the typical sizes and slower at none."""
    if isinstance(costs_at, str):
        return Chosen(None, costs_at)
    typical = costs_at[0]
    kept, reason = decide(typical.ratio, fewer_nodes=place.simpler)
    if not kept:
        return Chosen(None, f"{typical.ratio.value:.2f}x: {reason}", typical)
    for feeds, cost in zip(costs.bounds, costs_at[1:], strict=True):
        if cost.ratio.low > 1 + NOISE:
            sizes = sizes_of(Interface.of(place.trial.model), feeds)
            where = ", ".join(f"{name}={size}" for name, size in sizes.items())
            return Chosen(None, f"{cost.ratio.value:.2f}x at {where}: slower on this target", typical)
    return Chosen(place.trial, reason, typical)


def _places(model: ir.Model, trials: Sequence[Trial], costs: Costs) -> Iterator[_Place | tuple[str, str]]:
    """Cut out every place of every form; what cannot be cut out comes as label and reason."""
    index, shapes = Index(model), _Shapes(model, costs)
    for trial in trials:
        copy, later = Index(trial.model), _Shapes(trial.model, costs)
        for site in (s for s in trial.record.sites if s.applied):
            before, after = cut(index, site.before), cut(copy, site.after)
            if before is None or (site.after and after is None):
                yield site.node, "cannot be timed on its own: it is in a subgraph, or holds one"
                continue
            keys = tuple(
                costs.key(*canonical_text(before, shapes.at(i, before)), *_lines(after, later, i))
                for i in range(len(costs.points))
            )
            yield _Place(site.node, trial, before, after, len(site.after) < len(site.before), keys)


def _lines(region: ir.Model | None, shapes: _Shapes, point: int) -> Iterator[str]:
    return iter(()) if region is None else canonical_text(region, shapes.at(point, region))


class _Shapes:
    """Shapes of a model's values at each point, as text that also tells which sizes are dynamic."""

    def __init__(self, model: ir.Model, costs: Costs) -> None:
        self.model = model
        self.sizes = [sizes_of(Interface.of(model), feeds) for feeds in costs.points]
        self._inferred: dict[int, dict[str, tuple[int, ...]]] = {}

    def at(self, point: int, region: ir.Model) -> dict[str, str]:
        """Return the shapes of a region's inputs at one point."""
        return {str(v.name): self._text(point, v) for v in region.graph.inputs}

    def _text(self, point: int, value: ir.Value) -> str:
        sizes = self.sizes[point]
        shape = evaluate(value.shape, sizes)
        if shape is None:
            if point not in self._inferred:
                self._inferred[point] = infer_shapes(self.model, sizes)
            shape = self._inferred[point].get(str(value.name))
        if shape is None:  # then it is only known to be that of this very value
            return f"{value.name} {sorted(sizes.items())}"
        declared = [None] * len(shape) if value.shape is None else list(value.shape)
        return ",".join(str(n) if isinstance(d, int) else f"~{n}" for d, n in zip(declared, shape, strict=True))


def _measure(
    model: ir.Model, places: Sequence[_Place], costs: Costs
) -> Mapping[tuple[str, ...], tuple[Cost, ...] | str]:
    """Cost of each distinct place at each point, or the reason why there is none."""
    distinct = {p.keys: p for p in places}
    answers: dict[tuple[str, ...], tuple[Cost, ...] | str] = {}
    for keys in distinct:
        known = [cost for key in keys if (cost := costs.table.read(key)) is not None]
        if len(known) == len(keys):
            answers[keys] = tuple(known)
    missing = [p for keys, p in distinct.items() if keys not in answers]
    if not missing:
        return answers
    try:
        costs.must_be_here()
        given = _Given.of(model, missing, costs)
    except DlcError as error:
        return answers | {p.keys: _reason(error) for p in missing}
    for place in missing:
        try:
            answers[place.keys] = tuple(
                costs.place(key, place.before, place.after or idle(place.before, feeds), feeds, after)
                for key, (feeds, after) in zip(place.keys, given.feeds(place), strict=True)
            )
        except DlcError as error:
            answers[place.keys] = _reason(error)
    return answers


def _reason(error: DlcError) -> str:
    return str(error) if isinstance(error, NotHere) else f"cannot be measured: {error}"


@dataclass(frozen=True, slots=True)
class _Given:
    """What the places are fed: the values that flow there when the whole model runs, at each point."""

    base: Sequence[Outputs]
    trials: Mapping[Trial, Sequence[Outputs]]

    @classmethod
    def of(cls, model: ir.Model, places: Sequence[_Place], costs: Costs) -> _Given:
        there = {v.name for node in model.graph for v in node.outputs} | {v.name for v in model.graph.inputs}
        read = {n for p in places for n in _inputs(p.before)}
        new: dict[Trial, set[str]] = {}
        for place in places:
            names = set(_inputs(place.after)) if place.after else set[str]()
            read |= names & there
            new.setdefault(place.trial, set()).update(names - there)
        made = {t: traced(t.model, names, costs.points) if names else [] for t, names in new.items()}
        return cls(traced(model, read, costs.points), made)

    def feeds(self, place: _Place) -> Iterator[tuple[Feeds, Feeds]]:
        """Yield what the place reads before and after, at each point."""
        for i, base in enumerate(self.base):
            before = {name: base[name] for name in _inputs(place.before)}
            if place.after is None:
                yield before, before
                continue
            own = self.trials[place.trial]
            values = {**own[i], **base} if own else base
            yield before, {name: values[name] for name in _inputs(place.after)}


def _inputs(region: ir.Model) -> list[str]:
    return [str(v.name) for v in region.graph.inputs]
