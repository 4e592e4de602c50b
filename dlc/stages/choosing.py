"""Which form each place of a graph gets: each is cut out as it is and as it would be, and both are timed.

A place is tried in a window, the nodes around it cut out as a model: whatever the size of the graph, a trial costs the
same, and places whose windows read alike are tried and timed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from dlc import pipeline
from dlc.cost_table import Cost
from dlc.costs import NOISE, Costs, canonical_text, decide, nodes_text
from dlc.errors import DlcError, NotHere
from dlc.interface import Interface, sizes_of
from dlc.passes.concrete_shapes import evaluate, infer_shapes
from dlc.passes.rewrite import Rewrite
from dlc.passes.weighted import label
from dlc.region import Index, around, cut
from dlc.runtimes.trace import traced

WINDOWS = (48, 192, 1 << 62)
"""Nodes of a window; the next larger is tried where a rewrite does not find what it needs."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a place gets: a form, or none for a reason. ``cost``: of the best form, at the typical sizes."""

    form: Rewrite | None
    reason: str
    cost: Cost | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """One of several places that are alike, under one form. ``keys``: of its cost, at each point."""

    form: Rewrite
    before: ir.Model
    after: ir.Model | None
    simpler: bool
    keys: tuple[str, ...]


_Costs = tuple[Cost, ...] | str
"""Costs of a place at each point, or the reason why there are none."""


def choose(model: ir.Model, forms: Sequence[Rewrite], costs: Costs) -> dict[str, Chosen]:
    """Choose the fastest form at every candidate, by label: none where nothing fits, or nothing is faster or simpler.

    PassError, or RuleError, names a form that broke a promise on the way.
    """
    reasons, fitting = _surveyed(model, forms)
    chosen = {name: Chosen(None, reason) for name, reason in reasons.items() if name not in fitting}
    if not fitting:
        return chosen
    index, shapes = Index(model), _Shapes(model, costs)
    alike: dict[tuple[str, ...], list[str]] = {}
    for name in fitting:
        alike.setdefault(_likeness(name, index, shapes), []).append(name)
    options = [[_tried(names[0], form, index, shapes, costs) for form in forms] for names in alike.values()]
    measured = _measure(model, [p for tried in options for p in tried if isinstance(p, _Place)], costs)
    for names, tried in zip(alike.values(), options, strict=True):
        best = _best([_judge(p, measured, shapes.sizes) if isinstance(p, _Place) else Chosen(None, p) for p in tried])
        chosen |= dict.fromkeys(names, best)
    return {name: chosen[name] for name in reasons}


def _surveyed(model: ir.Model, forms: Sequence[Rewrite]) -> tuple[dict[str, str], list[str]]:
    """Return every candidate with a reason, in graph order, and those that some form fits."""
    reasons, fitting = dict[str, str](), dict[str, None]()
    for form in forms:
        try:
            seen = form.survey(model)
        except DlcError:
            raise
        except Exception as error:
            raise pipeline.raised(form, error) from error
        for node, reason in seen:
            reasons.setdefault(label(node), reason or "")
            if reason is None:
                fitting[label(node)] = None
    return reasons, list(fitting)


def _likeness(name: str, index: Index, shapes: _Shapes) -> tuple[str, ...]:
    """Text of the window of a place; places with the same are alike."""
    if name not in index.places:
        return (name,)
    node = index.places[name][1]
    window = around(node, index, WINDOWS[0])
    return (f"at {window.index(node)}", *nodes_text(window, lambda value: shapes.text(0, value)))


def _tried(name: str, form: Rewrite, index: Index, shapes: _Shapes, costs: Costs) -> _Place | str:
    """Try a form at one place in a window, and cut the place out before and after; or say why not."""
    if name not in index.places:
        return "cannot be timed on its own: it is in a subgraph"
    reason = ""
    for size in WINDOWS:
        window = around(index.places[name][1], index, size)
        found = _tried_in([str(n.name) for n in window], name, form, index, shapes, costs)
        if not isinstance(found, str):
            return found
        reason = found
        if len(window) < size:
            break
    return reason


def _tried_in(window: list[str], name: str, form: Rewrite, index: Index, shapes: _Shapes, costs: Costs) -> _Place | str:
    as_is, copy = cut(index, window), cut(index, window)
    if as_is is None or copy is None:
        return "cannot be timed on its own: it holds a subgraph"
    others = dict.fromkeys((n for c in form.candidates(copy.graph) if (n := label(c)) != name), "another place")
    [record] = pipeline.run(copy, [replace(form, skip={**form.skip, **others})])
    site = next((s for s in record.sites if s.node == name), None)
    if site is None or site.reason is not None:
        return "it fits in the whole graph only" if site is None else str(site.reason)
    before, after = cut(Index(as_is), site.before), cut(Index(copy), site.after)
    if before is None or (site.after and after is None):
        return "cannot be timed on its own: it holds a subgraph"
    flowing = {v.name for v in (*as_is.graph.inputs, *(v for n in as_is.graph for v in n.outputs))}
    if after is not None and not flowing.issuperset(_inputs(after)):
        return "cannot be timed on its own: it reads what another place computes"
    keys = tuple(costs.key(*_text(before, i, shapes), *_text(after, i, shapes)) for i in range(len(costs.points)))
    return _Place(form, before, after, len(site.after) < len(site.before), keys)


def _text(region: ir.Model | None, point: int, shapes: _Shapes) -> Iterator[str]:
    return iter(()) if region is None else canonical_text(region, shapes.of(point, region))


def _best(several: list[Chosen]) -> Chosen:
    """Return the form that saves most. Forms come with the preferred first; a later one must save clearly more."""
    best, *others = [c for c in several if c.form is not None] or [c for c in several if c.cost] or several
    for each in others:
        if each.cost and (best.cost is None or each.cost.after_ns < (1 - NOISE) * _time_left(best, each)):
            best = each
    return best


def _time_left(best: Chosen, each: Chosen) -> float:
    """Time the best form leaves, of the time that the other started from: forms need not replace the same nodes."""
    assert best.cost is not None
    assert each.cost is not None
    return each.cost.before_ns - best.cost.saved_ns


def _judge(place: _Place, measured: Mapping[tuple[str, ...], _Costs], points: Sequence[Mapping[str, int]]) -> Chosen:
    """Keep a form that is faster at the typical sizes and slower at none."""
    costs_at = measured[place.keys]
    if isinstance(costs_at, str):
        return Chosen(None, costs_at)
    typical = costs_at[0]
    kept, reason = decide(typical.ratio, fewer_nodes=place.simpler)
    if not kept:
        return Chosen(None, f"{typical.ratio.value:.2f}x: {reason}", typical)
    for sizes, cost in zip(points[1:], costs_at[1:], strict=True):
        if cost.ratio.low > 1 + NOISE:
            where = ", ".join(f"{dim}={size}" for dim, size in sizes.items())
            return Chosen(None, f"{cost.ratio.value:.2f}x at {where}: slower on this target", typical)
    return Chosen(place.form, reason, typical)


class _Shapes:
    """Shapes of a model's values at each point, as text that also tells which sizes are dynamic."""

    def __init__(self, model: ir.Model, costs: Costs) -> None:
        self.model = model
        self.sizes = [sizes_of(Interface.of(model), feeds) for feeds in costs.points]
        self._inferred: dict[int, dict[str, tuple[int, ...]]] = {}

    def of(self, point: int, region: ir.Model) -> dict[str, str]:
        """Return the shapes of a region's inputs at one point."""
        return {str(v.name): self.text(point, v) for v in region.graph.inputs}

    def text(self, point: int, value: ir.Value) -> str:
        """Return the shape of one value at one point."""
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


def _measure(model: ir.Model, places: Sequence[_Place], costs: Costs) -> Mapping[tuple[str, ...], _Costs]:
    """Cost of each distinct place at each point, or the reason why there is none."""
    distinct, answers = {p.keys: p for p in places}, dict[tuple[str, ...], _Costs]()
    for keys in distinct:
        known = [cost for key in keys if (cost := costs.table.read(key)) is not None]
        if len(known) == len(keys):
            answers[keys] = tuple(known)
    missing = [p for keys, p in distinct.items() if keys not in answers]
    if not missing:
        return answers
    try:
        costs.must_be_here()
        read = {name for p in missing for region in (p.before, p.after) if region for name in _inputs(region)}
        flowing = traced(model, read, costs.points)
    except DlcError as error:
        return answers | {p.keys: _reason(error) for p in missing}
    for place in missing:
        try:
            answers[place.keys] = tuple(
                costs.place(key, place.before, place.after, values)
                for key, values in zip(place.keys, flowing, strict=True)
            )
        except DlcError as error:
            answers[place.keys] = _reason(error)
    return answers


def _inputs(region: ir.Model) -> list[str]:
    return [str(v.name) for v in region.graph.inputs]


def _reason(error: DlcError) -> str:
    return str(error) if isinstance(error, NotHere) else f"cannot be measured: {error}"
