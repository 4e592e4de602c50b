"""The FP32 graph, rewritten where the target is measured to be faster for it."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import onnx_ir as ir

from dlc import manifest, pipeline
from dlc.costs import Costs, decide
from dlc.errors import ModelError, NotHere, PassError
from dlc.passes.base import Site, all_nodes, clone
from dlc.passes.cancel_transposes import CancelTransposes
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.convolve_gemm import ConvolveGemm
from dlc.passes.drop_softmax_guard import DropSoftmaxGuard
from dlc.passes.fold_batch_norm import FoldBatchNorm
from dlc.passes.fold_input_scale import FoldInputScale
from dlc.passes.fold_pad import FoldPad
from dlc.passes.fold_scale_bias import FoldScaleBias
from dlc.passes.fuse_attention import FuseAttention
from dlc.passes.fuse_gelu import FuseGelu
from dlc.passes.fuse_layer_norm import FuseLayerNorm
from dlc.passes.pool_mean import PoolMean
from dlc.passes.rewrite import Rewrite
from dlc.passes.split_residual import SplitResidual
from dlc.passes.unroll_grid import UnrollGrid
from dlc.passes.weighted import label
from dlc.pipeline import Evaluate, PassRecord
from dlc.recipe import Invariant
from dlc.stages.choosing import Chosen, choose
from dlc.target import Target


def rewrites(target: Target, invariants: tuple[Invariant, ...] = ()) -> tuple[Rewrite, ...]:
    """Rewrites of the FP32 graph, in order: those that fold a factor come after those that look for it."""
    attention = FuseAttention(max_opset=min(target.opset, FuseAttention.max_opset), invariants=invariants)
    return (
        FoldBatchNorm(), FoldPad(), PoolMean(), ConvolveGemm(), CancelTransposes(), FuseLayerNorm(), SplitResidual(),
        FuseGelu(), UnrollGrid(), attention, DropSoftmaxGuard(invariants=invariants), FoldScaleBias(), FoldInputScale(),
    )  # fmt: skip


HOLDS = 0.03
"""How far the whole may fall short of what its places predict before each rewrite is timed on the whole."""


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

    Then the whole is timed. If it gains less than its places predict, each rewrite is timed on the whole, and what does
    not hold is rolled back. A rewrite that is broken, or cannot be measured, is left out, and the rest goes on.
    """
    with _collector_paused():
        return _rewritten(model, costs, passes, evaluate)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Leave cyclic garbage for later: values and nodes refer to each other; collecting takes a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _rewritten(model: ir.Model, costs: Costs, passes: Sequence[Rewrite], evaluate: Evaluate | None) -> Rewritten:
    original = clone(model)
    records = tuple(pipeline.run(model, [Canonicalize()], evaluate=evaluate))
    canonical = Rewritten(clone(model), records)
    done = Rewritten(model, records)
    for each in passes:
        done = _applied(each, done, costs, evaluate)
    try:
        if done.bugs or _falls_short(canonical.model, done, costs):
            done = canonical
            for each in passes:
                done = _applied_if_it_holds(each, done, costs, evaluate)
        return _never_slower(original, canonical.model, done, costs)
    except (ModelError, NotHere):
        return done


def _falls_short(canonical: ir.Model, done: Rewritten, costs: Costs) -> bool:
    """Whether the whole gains less than its places predict, or nothing."""
    whole = costs.whole(canonical, done.model)
    return whole.ratio.low > min(1 - done.saved_ns / whole.before_ns, 1) + HOLDS


def _applied(each: Rewrite, done: Rewritten, costs: Costs, evaluate: Evaluate | None) -> Rewritten:
    """Apply each form of a rewrite at the places that chose it, in place; where that shows a bug, the graph is lost."""
    try:
        alternatives = each.alternatives()
        chosen = choose(done.model, alternatives, costs)
    except PassError as error:
        return replace(done, bugs=(*done.bugs, error))
    forms = [form for form in alternatives if any(c.form is form for c in chosen.values())]
    if not forms:
        return replace(done, records=(*done.records, _untouched(each, chosen, done.model)))
    records, bugs = list[PassRecord](), list[PassError]()
    for form in forms:
        skip = {name: c.reason or "another form is faster" for name, c in chosen.items() if c.form is not form}
        elsewhere = {
            name for name, c in chosen.items() if not (c.form is form or (c.form is None and form is forms[0]))
        }
        try:
            [record] = pipeline.run(done.model, [replace(form, skip={**form.skip, **skip})], evaluate=evaluate)
        except PassError as error:
            bugs.append(error)
            continue
        sites = tuple(replace(s, ratio=_ratio(chosen.get(s.node))) for s in record.sites if s.node not in elsewhere)
        records.append(replace(record, sites=sites))
    applied = {s.node for r in records for s in r.sites if s.applied}
    saved = sum(c.cost.saved_ns for name, c in chosen.items() if c.cost and name in applied)
    return replace(done, records=(*done.records, *records), bugs=(*done.bugs, *bugs), saved_ns=done.saved_ns + saved)


def _applied_if_it_holds(each: Rewrite, done: Rewritten, costs: Costs, evaluate: Evaluate | None) -> Rewritten:
    """Apply a rewrite to a copy, and keep that if the whole is not slower for it."""
    candidate = _applied(each, replace(done, model=clone(done.model)), costs, evaluate)
    before, records = len(done.records), candidate.records
    if candidate.bugs != done.bugs or not any(r.modified for r in records[before:]):
        return replace(done, records=records, bugs=candidate.bugs)
    try:
        cost = costs.whole(done.model, candidate.model)
    except ModelError as error:
        kept, reason = False, f"cannot be measured: {error}"
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
