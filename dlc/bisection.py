"""Which pass changes a model's numbers, at which site, and where in the graph that begins.

Passes run one at a time. The outputs before and after each are compared on the same feeds, at several sizes of the
dynamic dimensions, with ONNX Runtime's own optimisations off. The first pass that breaks a promise is applied again at
some of its sites only, until none can be left out; then inner tensors are compared in execution order.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from dlc import pipeline
from dlc.delta import smallest
from dlc.divergence import Divergence, diverge
from dlc.errors import DataError, ModelError, PassError, Unsupported
from dlc.passes.base import Pass, Site, all_nodes, clone, graphs
from dlc.passes.rewrite import Rewrite
from dlc.passes.weighted import label
from dlc.progress import Progress, Silent, track
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.tolerance import distance, reassociation
from dlc.types import Feeds, Outputs

PLAIN = SessionConfig(graph_optimization="none")
SILENT = Silent()
LEFT_OUT = "left out to see whether it is the cause"

Kind = Literal["crashes", "breaks a promise", "does not run", "changes the numbers"]


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """Feeds on which graphs are compared; ``name`` says in words at which sizes, or from which data."""

    name: str
    feeds: Feeds


@dataclass(frozen=True, slots=True)
class Step:
    """One form of a pass, applied wherever it fits. ``apart``: the largest distance of an output, over all feeds."""

    name: str
    options: str
    sites: int
    modified: bool
    apart: float
    bound: float


@dataclass(frozen=True, slots=True)
class Culprit:
    """What a broken pass does, and where.

    ``sites``: the fewest that show it; none can be left out. Empty: the pass has no sites, or shows it without any.
    ``of``: how many sites were considered. ``differs_at``, ``holds_at``: names of the feeds.
    """

    name: str
    options: str
    kind: Kind
    problem: str
    sites: tuple[Site, ...]
    of: int
    differs_at: tuple[str, ...]
    holds_at: tuple[str, ...]
    divergence: Divergence


@dataclass(frozen=True, slots=True)
class Bisection:
    """What was tried, and the first pass at fault, if any."""

    feeds: tuple[str, ...]
    steps: tuple[Step, ...]
    culprit: Culprit | None = None


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one trial: outputs and their distance, or why there are none. ``kind``: if it is a fault."""

    trial: Trial
    outputs: Outputs
    apart: float
    kind: Kind
    problem: str


@dataclass(frozen=True, slots=True)
class _Fault:
    """``trials``: those on which a fault shows, the first of them as this kind; all where it shows without a run."""

    kind: Kind
    problem: str
    trials: tuple[Trial, ...]


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A pass applied to a copy. ``outputs``: of that, at each trial."""

    model: ir.Model
    sites: tuple[Site, ...] = ()
    modified: bool = True
    apart: float = 0.0
    bound: float = 0.0
    outputs: tuple[Outputs, ...] = ()
    fault: _Fault | None = None


def bisect(model: ir.Model, passes: Sequence[Pass], trials: Sequence[Trial], progress: Progress = SILENT) -> Bisection:
    """Apply passes to copies of a model, each in every form, and find the first that is at fault, with its sites.

    What follows a pass sees its first form that fits. Unsupported for a pass that changes numbers by design, and for a
    model that draws random numbers; ModelError for one that does not run.
    """
    for name in (p.name for p in passes if p.changes_numbers):
        raise by_design(name)
    names, steps, outputs = tuple(t.name for t in trials), list[Step](), _stated(model, trials)
    progress.stage("compare before and after each pass", len(passes))
    for each in track(progress, passes):
        kept: _Attempt | None = None
        for form in each.alternatives() if isinstance(each, Rewrite) else (each,):
            tried = _attempt(form, model, outputs, trials)
            sites = sum(s.applied for s in tried.sites)
            steps.append(Step(form.name, _options(form), sites, tried.modified, tried.apart, tried.bound))
            if tried.fault is not None:
                return Bisection(names, tuple(steps), _culprit(form, model, outputs, trials, tried, progress))
            if kept is None and tried.modified:
                kept = tried
        if kept is not None:
            model, outputs = kept.model, kept.outputs
    return Bisection(names, tuple(steps))


def by_design(name: str) -> Unsupported:
    """Refuse a pass, or a precision, whose numbers are not meant to stay."""
    return Unsupported(
        f"{name} changes the numbers by design, so that they cannot tell whether it is right: "
        "dlc compile judges each precision on the task's metric"
    )


def _options(form: Pass) -> str:
    return ", ".join(f"{name}={value}" for name, value in form.options.items())


def _stated(model: ir.Model, trials: Sequence[Trial]) -> tuple[Outputs, ...]:
    """Outputs of the model as it came. It is run twice: without equal answers there is nothing to compare."""
    with OrtCpuRunner(model, PLAIN) as runner:
        first, again = ([_run(runner, t) for t in trials] for _ in range(2))
        for trial, one, other in zip(trials, first, again, strict=True):
            apart, where = distance(other, one)
            if apart > reassociation(model):
                raise Unsupported(
                    f"output {where!r} differs by {apart:.3g} of its largest value between two runs on the same feeds "
                    f"({trial.name}): the model draws random numbers; export it without them, in eval mode"
                )
    return tuple(first)


def _run(runner: OrtCpuRunner, trial: Trial) -> Outputs:
    try:
        return runner.run(trial.feeds)
    except (DataError, ModelError) as error:
        raise type(error)(f"{trial.name}: {error}") from error


def _attempt(form: Pass, model: ir.Model, before: Sequence[Outputs], trials: Sequence[Trial]) -> _Attempt:
    """Apply a pass to a copy of a model, and compare with the outputs of the model."""
    copy = clone(model)
    try:
        [record] = pipeline.run(copy, [form])
    except PassError as error:
        return _Attempt(copy, fault=_broken(error, trials))
    bound = reassociation(copy)
    if not record.modified:
        return _Attempt(copy, record.sites, modified=False, bound=bound, outputs=tuple(before))
    outcomes = _outcomes(copy, before, trials)
    return _Attempt(
        copy, record.sites, apart=max((o.apart for o in outcomes), default=0.0), bound=bound,
        outputs=tuple(o.outputs for o in outcomes), fault=_fault(outcomes, bound),
    )  # fmt: skip


def _outcomes(model: ir.Model, before: Sequence[Outputs], trials: Sequence[Trial]) -> list[_Outcome]:
    try:
        with OrtCpuRunner(model, PLAIN) as runner:
            return [_outcome(runner, trial, stated) for trial, stated in zip(trials, before, strict=True)]
    except ModelError as error:  # it does not even load
        return [_Outcome(trial, {}, math.inf, "does not run", str(error)) for trial in trials]


def _outcome(runner: OrtCpuRunner, trial: Trial, stated: Outputs) -> _Outcome:
    try:
        got = runner.run(trial.feeds)
    except ModelError as error:
        return _Outcome(trial, {}, math.inf, "does not run", str(error))
    apart, where = distance(got, stated)
    share = "in its type, its shape, an integer, or the place of a NaN or infinity"
    how = share if math.isinf(apart) else f"by {apart:.3g} of its largest value"
    return _Outcome(trial, got, apart, "changes the numbers", f"output {where!r} differs {how}")


def _fault(outcomes: Sequence[_Outcome], bound: float) -> _Fault | None:
    failing = [o for o in outcomes if o.apart > bound]
    if not failing:
        return None
    first = failing[0]
    more = "" if math.isinf(first.apart) else f", more than {bound:.3g}"
    return _Fault(first.kind, f"{first.problem}{more} ({first.trial.name})", tuple(o.trial for o in failing))


def _broken(error: PassError, trials: Sequence[Trial]) -> _Fault:
    """Tell a pass that raised from one that left what it must not."""
    if error.__cause__ is None:
        return _Fault("breaks a promise", error.problem, tuple(trials))
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    frame = traceback.extract_tb(root.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    return _Fault("crashes", f"{type(root).__name__}: {root} ({where})", tuple(trials))


def _culprit(
    form: Pass, model: ir.Model, before: Sequence[Outputs], trials: Sequence[Trial], whole: _Attempt, progress: Progress
) -> Culprit:
    """Narrow a fault down to sites, and to the first value that differs."""
    fault, seen, places, kept = whole.fault, whole, list[str](), list[str]()
    assert fault is not None
    if isinstance(form, Rewrite):
        places = _places(form, model, whole.sites)
        kept = _fewest(form, model, places, fault, before[trials.index(fault.trials[0])], progress)
    if isinstance(form, Rewrite) and kept:
        narrow = _attempt(_only(form, model, kept), model, before, trials)
        if narrow.fault is not None:  # else all sites are kept, and it takes a pass that skips nothing
            seen, fault = narrow, narrow.fault
    progress.stage("find the first value that differs")
    found = Divergence()
    if fault.kind == "changes the numbers":
        found = diverge(model, seen.model, fault.trials[0].feeds, seen.bound)
    ops = {label(n): n.op_type for n in all_nodes(model.graph)}
    applied = {s.node: s for s in seen.sites if s.applied}
    return Culprit(
        name=form.name, options=_options(form), kind=fault.kind, problem=fault.problem, of=len(places),
        sites=tuple(applied.get(n) or Site(form.name, n, ops.get(n, "")) for n in kept),
        differs_at=tuple(t.name for t in fault.trials),
        holds_at=tuple(t.name for t in trials if t not in fault.trials), divergence=found,
    )  # fmt: skip


def _fewest(
    form: Rewrite, model: ir.Model, places: Sequence[str], fault: _Fault, stated: Outputs, progress: Progress
) -> list[str]:
    """Return the fewest places, none of which can be left out, at which a rewrite shows a fault of the same kind.

    None at all if it is at fault where it is applied nowhere.
    """
    progress.stage(f"find the site among {len(places)} of {form.name}")

    def fails(kept: Sequence[str]) -> bool:
        progress.advance()
        shown = _attempt(_only(form, model, kept), model, [stated], fault.trials[:1]).fault
        return shown is not None and (not kept or shown.kind == fault.kind)

    return smallest(places, fails)


def _places(form: Rewrite, model: ir.Model, sites: Sequence[Site]) -> list[str]:
    """Labels of the sites that were applied; of all candidates where the pass did not come so far."""
    if applied := [s.node for s in sites if s.applied]:
        return applied
    try:
        return [label(node) for graph in graphs(clone(model).graph) for node in form.candidates(graph)]
    except Exception:  # noqa: BLE001 - what crashes is the pass that is looked into: it has no sites to tell apart
        return []


def _only(form: Rewrite, model: ir.Model, kept: Sequence[str]) -> Rewrite:
    """Return the rewrite, applied at some places and nowhere else."""
    others = {label(n) for n in all_nodes(model.graph)} - set(kept)
    return replace(form, skip={**dict.fromkeys(sorted(others), LEFT_OUT), **form.skip})
