"""Which nodes of a model stay in FP32 while the rest computes in 8 bits: the search of ``dlc.search``, on a real model.

The calibration data is split in two, and each half is held out from the other: what a mix keeps of one half is told by
the mix that was calibrated on the other half. The mix that is chosen is calibrated on both. The evaluation data has no
part in the choice: it judges, as it does every variant.

A unit's sensitivity is the error of the outputs with this unit alone in 8 bits, on the real kernels and one batch that
is held out: as many runs of one batch as there are units. What it saves is timed on the unit cut out, through the cost
cache, and so is what two neighbours save once more together; units that are alike are timed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx_ir as ir

from dlc import __version__, data, manifest, pipeline
from dlc.calibrate import calibrate
from dlc.costs import Costs, canonical_text
from dlc.errors import ModelError, RecipeError, Unsupported
from dlc.harness.accuracy import Metric, first_output, metric_rows, predicted
from dlc.interface import Interface
from dlc.journal import Evaluation, Journal, Sensitivity, key
from dlc.manifest import Estimate
from dlc.passes.base import Pass, only_user, weight_bytes
from dlc.passes.quantize_static import QuantizeStatic
from dlc.passes.quantize_units import CLIPS, JOINS, MOVES, plan
from dlc.passes.weighted import label
from dlc.recipe import Dataset, Recipe
from dlc.region import Index, cut
from dlc.runtimes.opened import opened
from dlc.runtimes.trace import traced
from dlc.search import Found, Link, Measured, Mix, Problem, Search, Unit, front, megabytes
from dlc.stages.recovering import applied
from dlc.stages.workshop import Workshop, file_bytes, leaving
from dlc.target import Target
from dlc.types import Bytes, Feeds

FORMAT = "4"
"""Of what a journal's numbers mean; another one is another journal."""
ABSORBED = (*CLIPS, "Add")
"""What is computed with a product: the clipping of its result, a bias."""
BETWEEN = 4
"""Nodes without weights that may lie between two neighbours."""

Key = TypeVar("Key")

Passes = Callable[[ir.Model, Recipe, Target], list[Pass]]
"""Passes of the int8 variant, the last of which takes ``exclude``."""


@dataclass(frozen=True, slots=True)
class Mixed:
    """The passes that build the best mix, or the ``reason`` why there is none; and what was measured on the way."""

    passes: tuple[Pass, ...]
    record: manifest.SearchRecord
    reason: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what was searched and found."""
        if (chosen := self.record.chosen) is None:
            return ()
        return (
            f"{self.record.objective}: of {self.record.evaluations} mixes that were measured, the one that "
            f"{_words(chosen)}",
        )


def mix(model: ir.Model, recipe: Recipe, costs: Costs, int8: Passes) -> Mixed:
    """Search the mix that the recipe asks for; Unsupported if there is nothing to search, or no data to search with."""
    limit, size = recipe.mixed.objective.within_bytes, file_bytes(model)
    if limit is not None and size <= limit:
        raise Unsupported(f"{recipe.mixed.objective}: that is FP32 itself, at {megabytes(size)}")
    if recipe.calibration is None:
        raise Unsupported("a mix is chosen on calibration data: give the recipe a calibration set")
    folds = halves(recipe.calibration)
    passes = [_complete(int8(model, replace(recipe, calibration=d), costs.target), model, d, costs) for d in folds]
    workshop = Workshop(model, passes, recipe, costs, recipe.calibration)
    names = workshop.names
    if not names:
        raise Unsupported("no node can compute in 8 bits: int8 says why")
    journal = Journal(_file(workshop, recipe.calibration))
    units = _units(workshop, names, folds[1], journal)
    if not units:
        raise Unsupported("every unit gives NaN or infinity in 8 bits")
    by_size = recipe.mixed.objective.within_bytes is not None
    problem = Problem(units, [] if by_size else _links(workshop, [u.name for u in units]), by_size=by_size)

    def evaluate(chosen: Mix) -> Measured:
        if chosen not in journal.measured:
            journal.add(Evaluation(mix=tuple(n for n in names if n in chosen), measured=workshop.measure(chosen)))
        return journal.measured[chosen]

    options = recipe.mixed
    found = Search(problem, options.objective, evaluate, options.evaluations, options.seconds).run()
    answer = _answer(workshop, names, found)
    if found.best is None or not answer.passes:
        return answer
    whole = _complete(int8(model, recipe, costs.target), model, recipe.calibration, costs)
    return replace(answer, passes=tuple(leaving(whole, [n for n in names if n not in found.best])))


def halves(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Deal out the batches in turns; Unsupported if there is but one. Targets go with their examples."""
    rows = [next((len(a) for a in feeds.values() if a.ndim), 1) for feeds in dataset.batches()]
    if len(rows) < 2:
        raise Unsupported(
            f"data set {dataset.name!r} comes in one batch; a mix needs two, one to choose and one to hold out: "
            "give smaller batches"
        )

    def half(first: int, name: str) -> Dataset:
        targets = dataset.targets
        return dataset.part(
            lambda: islice(dataset.batches(), first, None, 2), name=f"{dataset.name}, {name}",
            targets=None if targets is None else lambda: _rows_of(targets(), rows, first),
        )  # fmt: skip

    return half(0, "to choose"), half(1, "held out")


def _rows_of(targets: np.ndarray, rows: Sequence[int], first: int) -> np.ndarray:
    """Targets of every second batch; there may be one for a batch, or for several rows, the same number everywhere."""
    if len(targets) == len(rows):
        return targets[first::2]
    ends = np.cumsum([0, *rows]) * len(targets) // sum(rows)
    return np.concatenate([targets[a:b] for a, b in zip(ends[first:-1:2], ends[first + 1 :: 2], strict=True)])


def _complete(passes: Sequence[Pass], model: ir.Model, chooses: Dataset, costs: Costs) -> list[Pass]:
    """Calibrate what is read in 8 bits in some mix, though not in the one where everything is."""
    *before, last = passes
    if not isinstance(last, QuantizeStatic):
        return list(passes)
    values = dict.fromkeys(str(v.name) for u in plan(model, {}).units for v in (*u.inputs, u.output))
    missing = [name for name in values if name not in last.ranges]
    even = applied(model, before)
    more = calibrate(even, chooses.batches(), missing, threads=costs.target.threads) if missing else {}
    return [*before, replace(last, ranges={**last.ranges, **more})]


def _file(workshop: Workshop, dataset: Dataset) -> Path | None:
    """Return the journal's file, beside the cost cache."""
    costs, recipe = workshop.costs, workshop.recipe
    if costs.table.file is None:
        return None
    # what passes learned follows from the model and the data
    options = [str(each) for passes in workshop.folds for each in passes]
    metric = "" if recipe.metric is None else f"{recipe.metric.name} {_scoring(workshop, recipe.metric)}"
    seen = data.inspect(dataset, Interface.of(workshop.model)).sha256
    sizes = [f"{name} {array.shape}" for name, array in costs.feeds.items()]
    name = key(workshop.model, FORMAT, __version__, costs.fingerprint, seen, metric, str(costs.seed), *options, *sizes)
    return costs.table.file.parent / "searches" / f"{name}.jsonl"


def _scoring(workshop: Workshop, metric: Metric) -> str:
    """Hash what the prediction and the metric make of one batch: a user may have edited either."""
    recipe, feeds = workshop.recipe, next(iter(workshop.held.batches()))
    with opened(workshop.model, workshop.costs.config) as fp32:
        rows = predicted(recipe.prediction or first_output, feeds, fp32.run(feeds), 0)
    try:  # against those of a neighbour: of its own predictions any metric is at its best
        scores = metric_rows(metric, rows, np.roll(rows, 1, axis=0), "predictions of FP32")
    except RecipeError:
        scores = np.empty(0)
    return sha256(rows.tobytes() + scores.tobytes()).hexdigest()


def _units(workshop: Workshop, names: Sequence[str], held: Dataset, journal: Journal) -> list[Unit]:
    """Tell of each unit what it loses, and what it saves; one whose outputs are of no use is none."""
    loss: float | None
    first = held.part(lambda: islice(held.batches(), 1))
    for name in names:
        if name not in journal.losses:
            try:
                loss = max(workshop.keeps([workshop.build(frozenset([name]))], first).loss, 0.0)
            except ModelError:
                loss = None
            journal.add(Sensitivity(unit=name, loss=loss))
    losses = {name: loss for name in names if (loss := journal.losses[name]) is not None}
    saved = _saved(workshop, {name: _region(workshop.model, [name]) for name in losses})
    return [Unit(name, loss, *saved[name]) for name, loss in losses.items()]


def _links(workshop: Workshop, names: Sequence[str]) -> list[Link]:
    """Time neighbours: two units with nothing between them that would have to be computed in FP32."""
    pairs = dict(neighbours(workshop.model, names))
    alone = _saved(workshop, {name: _region(workshop.model, [name]) for name in names})
    together = _saved(workshop, {pair: _region(workshop.model, between) for pair, between in pairs.items()})
    links = [Link(a, b, together[a, b][0] - alone[a][0] - alone[b][0]) for a, b in pairs]
    return [link for link in links if link.saved_ns > 0]


def neighbours(model: ir.Model, names: Sequence[str]) -> Iterator[tuple[tuple[str, str], list[str]]]:
    """Yield pairs of units that pass a value on, or read the same one, with all nodes of both and in between."""
    units = {label(n): n for n in model.graph if label(n) in set(names)}
    for name, node in units.items():
        for trail in _trails(node, set(units.values()), ()):
            yield (name, label(trail[-1])), [label(n) for n in (node, *trail)]
        readers = [u.node for u in node.inputs[0].uses()] if node.inputs[0] is not None else []
        for other in readers[readers.index(node) + 1 :]:
            if label(other) in units and other is not node:
                yield (name, label(other)), [name, label(other)]


def _trails(node: ir.Node, units: set[ir.Node], past: tuple[ir.Node, ...]) -> Iterator[tuple[ir.Node, ...]]:
    for use in node.outputs[0].uses():
        if use.node in units:
            yield (*past, use.node)
        elif len(past) < BETWEEN and use.node.op_type in (*CLIPS, *JOINS, *MOVES):
            yield from _trails(use.node, units, (*past, use.node))


def _region(model: ir.Model, names: Sequence[str]) -> list[str]:
    """Add what each node absorbs."""
    wanted, region = set(names), dict.fromkeys(names)
    for node in model.graph:
        after = only_user(node.outputs[0]) if node.outputs and label(node) in wanted else None
        if after is not None and after.op_type in ABSORBED:
            region[label(after)] = None
    return list(region)


def _saved(workshop: Workshop, places: Mapping[Key, list[str]]) -> dict[Key, tuple[float, Bytes]]:
    """Cut places out, time them in FP32 and in 8 bits, and say what a run and a file save; 0 where that fails."""
    index, costs, last = Index(workshop.model), workshop.costs, workshop.folds[0][-1]
    cuts: dict[Key, tuple[ir.Model, ir.Model]] = {}
    for name, nodes in places.items():
        before, after = cut(index, nodes), cut(index, nodes)
        if before is not None and after is not None:
            pipeline.run(after, [last])
            cuts[name] = before, after
    read = {str(v.name) for before, _ in cuts.values() for v in before.graph.inputs}
    [values] = traced(workshop.model, read, [costs.feeds])
    return {name: _timed(*cuts[name], values, costs) if name in cuts else (0.0, 0) for name in places}


def _timed(before: ir.Model, after: ir.Model, values: Feeds, costs: Costs) -> tuple[float, Bytes]:
    shapes = {str(v.name): str(values[str(v.name)].shape) for v in before.graph.inputs}
    place = costs.key(*canonical_text(before, shapes), *canonical_text(after, shapes))
    smaller = weight_bytes(before) - weight_bytes(after)
    try:
        return costs.place(place, before, after, values).saved_ns, smaller
    except ModelError:
        return 0.0, smaller


def _answer(workshop: Workshop, names: Sequence[str], found: Found) -> Mixed:
    """Put the search on record, and say what is built."""
    objective = workshop.recipe.mixed.objective
    plain = next(iter(found.measured.values()))  # all units, measured first
    unit = Estimate(value=1.0, low=1.0, high=1.0)
    size = file_bytes(workshop.model)
    fp32 = Measured(ms=plain.ms / plain.ratio.value, ratio=unit, kept=unit, bytes=size, seconds=0.0)
    known = {frozenset[str](): fp32, **found.measured}
    records = {id(m): _record(m, [n for n in names if n not in mix]) for mix, m in known.items()}
    chosen = known.get(found.best) if found.best is not None else None
    beaten = chosen is not None and objective.better(fp32, chosen)
    best = fp32 if objective.holds(fp32) and (beaten or objective.within_ms is not None) else chosen
    ahead = front(known.values(), by_size=objective.within_bytes is not None)
    record = manifest.SearchRecord(
        objective=str(objective), units=len(names), evaluations=len(found.measured),
        allowed=workshop.recipe.mixed.evaluations, seconds=sum(m.seconds for m in found.measured.values()),
        stopped=found.stopped, front=tuple(records[id(m)] for m in ahead), plain=records[id(plain)],
        chosen=records[id(best)] if best else None,
    )  # fmt: skip
    if best is fp32:
        return Mixed((), record, f"{objective}: that is FP32 itself, at {fp32.ms:.3g} ms and {megabytes(fp32.bytes)}")
    if found.best is None:
        nearest = known[found.nearest] if found.nearest else plain
        return Mixed((), record, f"no mix is {objective}; the nearest {_words(records[id(nearest)])}")
    return Mixed(tuple(leaving(workshop.folds[0], records[id(known[found.best])].excluded)), record)


def _record(found: Measured, excluded: Sequence[str]) -> manifest.MixRecord:
    return manifest.MixRecord(
        excluded=tuple(excluded), latency_ms=found.ms, ratio=found.ratio, kept=found.kept, bytes=found.bytes
    )


def _words(found: manifest.MixRecord) -> str:
    left = ", ".join(found.excluded) or "nothing"
    return (
        f"keeps {100 * found.kept.value:.3f} % [{100 * found.kept.low:.3f}, {100 * found.kept.high:.3f}] of held-out "
        f"data in {found.latency_ms:.3g} ms ({found.ratio.value:.3f}x) and {megabytes(found.bytes)}, "
        f"with {left} in FP32"
    )
