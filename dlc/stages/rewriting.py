"""The FP32 graph, rewritten where the target is measured to be faster for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from dlc import manifest, pipeline
from dlc.costs import Costs, decide
from dlc.errors import ModelError, NotHere, PassError
from dlc.passes.base import Site, clone
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.fold_batch_norm import FoldBatchNorm
from dlc.passes.fuse_attention import FuseAttention
from dlc.passes.fuse_gelu import FuseGelu
from dlc.passes.fuse_layer_norm import FuseLayerNorm
from dlc.passes.rewrite import Rewrite
from dlc.passes.split_residual import SplitResidual
from dlc.passes.unroll_grid import UnrollGrid
from dlc.pipeline import Evaluate, PassRecord
from dlc.stages.choosing import Chosen, Trial, choose
from dlc.target import Target


def rewrites(target: Target) -> tuple[Rewrite, ...]:
    """Rewrites of the FP32 graph, in order."""
    attention = FuseAttention(max_opset=min(target.opset, FuseAttention.max_opset))
    return (FoldBatchNorm(), FuseLayerNorm(), SplitResidual(), FuseGelu(), UnrollGrid(), attention)


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A rewritten graph, what each pass did, and what was measured to decide it. ``bugs``: passes that were left out.

    ``saved_ns``: what the places of all kept rewrites save together, timed one by one.
    """

    model: ir.Model
    records: tuple[PassRecord, ...] = ()
    choices: tuple[manifest.Choice, ...] = ()
    bugs: tuple[PassError, ...] = ()
    saved_ns: float = 0.0


def rewrite(model: ir.Model, costs: Costs, passes: Sequence[Rewrite], *, evaluate: Evaluate | None = None) -> Rewritten:
    """Canonicalise, then apply each rewrite at the places where it was measured to be worth it.

    A rewrite that is broken, or cannot be measured, is left out, and the rest goes on.
    """
    original, done = clone(model), Rewritten(model)
    done = replace(done, records=tuple(pipeline.run(model, [Canonicalize()], evaluate=evaluate)))
    canonical = done.model
    for each in passes:
        try:
            done = _apply(each, done, costs, evaluate)
        except PassError as error:
            done = replace(done, bugs=(*done.bugs, error))
    return _held(original, canonical, done, costs)


def _apply(each: Rewrite, done: Rewritten, costs: Costs, evaluate: Evaluate | None) -> Rewritten:
    """Try every form of a rewrite on copies, choose place by place, and see whether the choices hold in the whole."""
    trials = [_trial(form, done.model, evaluate) for form in each.alternatives()]
    fitting = [t for t in trials if t.record.modified]
    if not fitting:
        return replace(done, records=(*done.records, trials[0].record))
    chosen = choose(done.model, fitting, costs)
    forms = [t for t in fitting if any(c.trial is t for c in chosen.values())]
    if not forms:
        reasons = {label: c.reason for label, c in chosen.items()}
        return replace(done, records=(*done.records, _refused(fitting[0].record, reasons, chosen)))
    model, records = _combine(done.model, forms, chosen, evaluate)
    return _kept_if_it_holds(each, done, model, records, chosen, costs)


def _trial(form: Rewrite, model: ir.Model, evaluate: Evaluate | None) -> Trial:
    copy = clone(model)
    [record] = pipeline.run(copy, [form], evaluate=evaluate)
    return Trial(form, copy, record)


def _combine(
    model: ir.Model, forms: Sequence[Trial], chosen: Mapping[str, Chosen], evaluate: Evaluate | None
) -> tuple[ir.Model, list[PassRecord]]:
    """Apply each form at the places that chose it; each place is on record once."""
    if len(forms) == 1 and all(c.trial is forms[0] for c in chosen.values()):
        return forms[0].model, [_measured(forms[0].record, chosen)]
    combined, records = clone(model), list[PassRecord]()
    for trial in forms:
        skip = {label: c.reason or "another form is faster" for label, c in chosen.items() if c.trial is not trial}
        [record] = pipeline.run(combined, [replace(trial.form, skip=skip)], evaluate=evaluate)
        theirs = {label for label, c in chosen.items() if c.trial not in (None, trial)}
        records.append(_measured(replace(record, sites=tuple(s for s in record.sites if s.node not in theirs)), chosen))
    return combined, records


def _kept_if_it_holds(
    each: Rewrite, done: Rewritten, model: ir.Model, records: Sequence[PassRecord], chosen: Mapping[str, Chosen],
    costs: Costs,
) -> Rewritten:  # fmt: skip
    kept_places = {s.node for r in records for s in r.sites if s.applied}
    saved = sum(c.cost.saved_ns for label, c in chosen.items() if c.cost and label in kept_places)
    try:
        cost = costs.whole(done.model, model)
    except NotHere:
        return replace(done, model=model, records=(*done.records, *records), saved_ns=done.saved_ns + saved)
    except ModelError as error:
        refused = [_refused(r, dict.fromkeys(kept_places, f"cannot be measured: {error}"), chosen) for r in records]
        return replace(done, records=(*done.records, *refused))
    kept, reason = decide(cost.ratio, fewer_nodes=True)
    choice = manifest.Choice(
        rewrite=each.name, kept=kept, ratio=cost.ratio, reason=reason, predicted=1 - saved / cost.before_ns
    )
    if not kept:
        slower = dict.fromkeys(kept_places, f"{cost.ratio.value:.2f}x on the whole model: {reason}")
        refused = [_refused(r, slower, chosen) for r in records]
        return replace(done, records=(*done.records, *refused), choices=(*done.choices, choice))
    return replace(
        done, model=model, records=(*done.records, *records), choices=(*done.choices, choice),
        saved_ns=done.saved_ns + saved,
    )  # fmt: skip


def _held(original: ir.Model, canonical: ir.Model, done: Rewritten, costs: Costs) -> Rewritten:
    """Compare the outcome with where it came from: it must not be slower than the graph as it was exported."""
    try:
        gain = costs.whole(canonical, done.model)
        against = costs.whole(original, done.model)
    except (ModelError, NotHere):
        return done
    total = manifest.Choice(
        rewrite="all", kept=True, ratio=gain.ratio, reason="every kept rewrite together",
        predicted=1 - done.saved_ns / gain.before_ns,
    )  # fmt: skip
    kept, reason = decide(against.ratio, fewer_nodes=True)
    if kept:
        return replace(done, choices=(*done.choices, total))
    why = f"{against.ratio.value:.2f}x of the exported graph, all rewrites together: {reason}"
    records = tuple(_refused(r, {s.node: why for s in r.sites if s.applied}, {}) for r in done.records)
    total = manifest.Choice(rewrite="all", kept=False, ratio=against.ratio, reason=reason)
    return replace(done, model=original, records=records, choices=(*done.choices, total), saved_ns=0.0)


def _measured(record: PassRecord, chosen: Mapping[str, Chosen]) -> PassRecord:
    """Put the measured ratio of each place on record."""

    def ratio(site: Site) -> float | None:
        found = chosen.get(site.node)
        return found.cost.ratio.value if found is not None and found.cost is not None else None

    return replace(record, sites=tuple(replace(s, ratio=ratio(s)) for s in record.sites))


def _refused(record: PassRecord, reasons: Mapping[str, str], chosen: Mapping[str, Chosen]) -> PassRecord:
    """Record a pass whose places were found and left as they are."""
    sites = tuple(replace(s, reason=s.reason or reasons.get(s.node)) for s in record.sites)
    unchanged = replace(record, modified=False, sites=sites, nodes_after=record.nodes_before)
    return _measured(unchanged, chosen)
