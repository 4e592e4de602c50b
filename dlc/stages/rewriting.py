"""A graph, FP32 or quantized, rewritten where the target is measured to be faster for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from dlc import manifest, pipeline
from dlc.costs import Costs, decide
from dlc.errors import DlcError, ModelError, NotHere, PassError, RuleError
from dlc.harness.measure import collector_paused
from dlc.passes.base import Site, all_nodes, clone
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.rewrite import Rewrite
from dlc.passes.weighted import label
from dlc.pipeline import Evaluate, PassRecord
from dlc.stages.choosing import Chosen, choose
from dlc.stages.trust import apply, fault, left_out

HOLDS = 0.03
"""How far the whole may fall short of what its places predict before each rewrite is timed on the whole."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A rewritten graph, what each pass did, and what was measured to decide it. ``bugs``: passes that were left out.

    ``saved_ns``: what the places of all kept rewrites save together, timed one by one. ``canonical``: the graph before
    any rewrite.
    """

    model: ir.Model
    records: tuple[PassRecord, ...] = ()
    choices: tuple[manifest.Choice, ...] = ()
    bugs: tuple[DlcError, ...] = ()
    saved_ns: float = 0.0
    canonical: ir.Model | None = None


def rewrite(model: ir.Model, costs: Costs, passes: Sequence[Rewrite], *, evaluate: Evaluate | None = None) -> Rewritten:
    """Canonicalise, then apply each rewrite at the places where it was measured to be worth it.

    Then the whole is timed. If it gains less than its places predict, or does not run, each rewrite is timed on the
    whole, and what does not hold is rolled back. A rewrite that is broken, or cannot be measured, is left out, and the
    rest goes on. One that is not trusted is applied only after the numbers were compared.
    """
    with collector_paused():
        return _rewritten(model, costs, passes, evaluate)


def _rewritten(model: ir.Model, costs: Costs, passes: Sequence[Rewrite], evaluate: Evaluate | None) -> Rewritten:
    original = clone(model)
    records = tuple(pipeline.run(model, [Canonicalize()], evaluate=evaluate))
    canonical = Rewritten(as_it_was := clone(model), records, canonical=as_it_was)
    done = replace(canonical, model=model)
    for each in passes:
        done = _applied(each, done, costs, evaluate)
    try:
        if any(isinstance(bug, PassError) for bug in done.bugs) or _falls_short(as_it_was, done, costs):
            done = canonical
            for each in passes:
                done = _applied_if_it_holds(each, done, costs, evaluate)
        return _never_slower(original, as_it_was, done, costs)
    except NotHere:
        return done
    except ModelError as error:
        return _taken_back(canonical, done, f"the whole model cannot be measured: {error}")


def _falls_short(canonical: ir.Model, done: Rewritten, costs: Costs) -> bool:
    """Whether the whole gains less than its places predict, or nothing, or cannot be measured."""
    try:
        whole = costs.whole(canonical, done.model)
    except ModelError:
        return True
    return whole.ratio.low > min(1 - done.saved_ns / whole.before_ns, 1) + HOLDS


def _applied(
    each: Rewrite, done: Rewritten, costs: Costs, evaluate: Evaluate | None, *, to_a_copy: bool = False
) -> Rewritten:
    """Apply each form of a rewrite at the places that chose it; where that shows a bug, the graph is lost."""
    try:
        alternatives = each.alternatives()
        chosen = choose(done.model, alternatives, costs)
    except (PassError, RuleError) as error:
        return replace(done, bugs=(*done.bugs, error))
    forms = [form for form in alternatives if any(c.form is form for c in chosen.values())]
    if forms and not each.trusted and (wrong := fault(forms, chosen, done.model, costs)) is not None:
        done, forms, chosen = replace(done, bugs=(*done.bugs, wrong)), [], left_out(chosen, wrong)
    if not forms:
        return replace(done, records=(*done.records, _untouched(each, chosen, done.model)))
    if to_a_copy:
        done = replace(done, model=clone(done.model))
    records, bugs = list[PassRecord](), list[DlcError]()
    for form in forms:
        elsewhere = {
            name for name, c in chosen.items() if not (c.form is form or (c.form is None and form is forms[0]))
        }
        try:
            record = apply(form, chosen, done.model, evaluate)
        except (PassError, RuleError) as error:
            bugs.append(error)
            continue
        sites = tuple(replace(s, ratio=_ratio(chosen.get(s.node))) for s in record.sites if s.node not in elsewhere)
        records.append(replace(record, sites=sites))
    applied = {s.node for r in records for s in r.sites if s.applied}
    saved = sum(c.cost.saved_ns for name, c in chosen.items() if c.cost and name in applied)
    return replace(done, records=(*done.records, *records), bugs=(*done.bugs, *bugs), saved_ns=done.saved_ns + saved)


def _applied_if_it_holds(each: Rewrite, done: Rewritten, costs: Costs, evaluate: Evaluate | None) -> Rewritten:
    """Apply a rewrite to a copy, and keep that if the whole is not slower for it."""
    candidate = _applied(each, done, costs, evaluate, to_a_copy=True)
    before, records = len(done.records), candidate.records
    if candidate.bugs != done.bugs or not any(r.modified for r in records[before:]):
        return replace(done, records=records, bugs=candidate.bugs)
    try:
        cost = costs.whole(done.model, candidate.model)
    except ModelError as error:
        kept, reason = False, f"the whole model cannot be measured: {error}"
    else:
        kept, reason = decide(cost.ratio, fewer_nodes=True)
        choice = manifest.Choice(
            rewrite=each.name, kept=kept, ratio=cost.ratio, reason=reason,
            predicted=1 - (candidate.saved_ns - done.saved_ns) / cost.before_ns,
        )  # fmt: skip
        candidate = replace(candidate, choices=(*done.choices, choice))
        reason = f"{cost.ratio.value:.2f}x on the whole model: {reason}"
    if kept:
        return candidate
    rolled_back = tuple(_rolled_back(r, reason) for r in records[before:])
    return replace(done, records=(*done.records, *rolled_back), choices=candidate.choices)


def _never_slower(original: ir.Model, canonical: ir.Model, done: Rewritten, costs: Costs) -> Rewritten:
    """Compare the outcome with the graph as it was exported, and return to that if it was faster."""
    whole = costs.whole(canonical, done.model)
    kept, reason = decide(costs.whole(original, done.model).ratio, fewer_nodes=True)
    choice = manifest.Choice(
        rewrite="all", kept=kept, ratio=whole.ratio, predicted=1 - done.saved_ns / whole.before_ns,
        reason="every kept rewrite together" if kept else f"{reason}, against the graph as it was exported",
    )  # fmt: skip
    if kept:
        return replace(done, choices=(*done.choices, choice))
    records = tuple(_rolled_back(r, choice.reason) for r in done.records)
    return replace(done, model=original, records=records, choices=(*done.choices, choice), saved_ns=0.0)


def _taken_back(canonical: Rewritten, done: Rewritten, reason: str) -> Rewritten:
    """Return to the canonical graph, with the reason at every place that was changed."""
    before = len(canonical.records)
    rolled_back = (_rolled_back(r, reason) for r in done.records[before:])
    return replace(canonical, records=(*canonical.records, *rolled_back), bugs=done.bugs)


def _untouched(each: Rewrite, chosen: Mapping[str, Chosen], model: ir.Model) -> PassRecord:
    """Record a rewrite that was applied nowhere."""
    ops = {label(n): n.op_type for n in all_nodes(model.graph)} if chosen else {}
    sites = tuple(Site(each.name, n, ops[n], c.reason, ratio=_ratio(c)) for n, c in chosen.items())
    count = sum(1 for _ in all_nodes(model.graph))
    return PassRecord(
        each.name, each.options, modified=False, sites=sites, nodes_before=count, nodes_after=count, seconds=0.0
    )


def _rolled_back(record: PassRecord, reason: str) -> PassRecord:
    sites = tuple(replace(s, reason=s.reason or reason) for s in record.sites)
    return replace(record, modified=False, sites=sites, nodes_after=record.nodes_before)


def _ratio(chosen: Chosen | None) -> float | None:
    return chosen.cost.ratio.value if chosen is not None and chosen.cost is not None else None
