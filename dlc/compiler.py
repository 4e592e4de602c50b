"""The whole flow: export, rewrite, build each precision, write, measure, judge, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from dlc.artifact import MANIFEST, Artifact, seal, staging
from dlc.budget import check_weights, climb
from dlc.cost_table import Cost, CostTable
from dlc.costs import Costs
from dlc.errors import CapabilityError, DlcError, PassError, UserError
from dlc.export import Exported, export
from dlc.feeds import distinct_sizes, least_sizes, measured_sizes, seeded_feeds, typical_sizes
from dlc.interface import Interface
from dlc.memory_plan import MemoryPlan
from dlc.passes.base import clone, weight_bytes
from dlc.peaks import peaks
from dlc.pretty import pretty_json
from dlc.progress import Progress, Silent, track
from dlc.recipe import PRECISIONS, Precision, Recipe, suggest
from dlc.report.write import write_reports
from dlc.runtimes.added import check_measurable
from dlc.stages.amending import AS_IT_IS, Amended
from dlc.stages.calibrating import watched
from dlc.stages.defaults import rewrites
from dlc.stages.evidence import BASELINE, Subject, gather
from dlc.stages.excluding import check_excluded
from dlc.stages.expectations import hits
from dlc.stages.layers import by_closeness, with_layers
from dlc.stages.record import check_data, to_manifest
from dlc.stages.rewriting import rewrite
from dlc.stages.roofline import with_work, work_of
from dlc.stages.rounding import widened
from dlc.stages.shipping import add_golden, add_plan, candidates, ship
from dlc.stages.simulation import simulated
from dlc.stages.spreads import add_statistics
from dlc.stages.trust import evaluator
from dlc.stages.variants import Build, build
from dlc.target import Target
from dlc.types import Bytes, Feeds

SILENT = Silent()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to compile. ``variants`` None: those that the recipe names. ``cache`` None: no measured cost is kept.

    ``costs``: measured on the target, which is another machine; they alone decide what is rewritten. ``memory_budget``:
    most that a model may add to a process. ``amended``: passes that are left out, or have other options.
    """

    variants: tuple[Precision, ...] | None = None
    seed: int = 0
    evaluate: bool = True
    check_each_pass: bool = False
    overwrite: bool = False
    cache: Path | None = None
    costs: Mapping[str, Cost] | None = None
    memory_budget: Bytes | None = None
    amended: Amended = AS_IT_IS


DEFAULT = Options()


@dataclass(frozen=True, slots=True)
class Compiled:
    """An artifact, and what is broken and was left out: passes of ours, and rewrites of the user's own."""

    artifact: Artifact
    bugs: tuple[DlcError, ...]


def compile(  # noqa: A001 - the verb's name: callers write dlc.compile
    recipe: Recipe, target: Target, out: Path | str, options: Options = DEFAULT, progress: Progress = SILENT
) -> Compiled:
    """Compile a recipe for a target into ``out / recipe.name``: written whole, or not at all."""
    precisions, out = _precisions(recipe, options), Path(out)
    if options.memory_budget is not None:
        check_measurable(target.provider)
    with staging(out / recipe.name, overwrite=options.overwrite) as folder:
        progress.stage("export")
        exported = export(recipe, opset=target.opset, ir_version=target.ir_version, seed=options.seed)
        data = check_data(recipe, Interface.of(exported.model), evaluating=options.evaluate)
        costs = Costs.at(
            target, Interface.of(exported.model), exported.inputs, measured_sizes(exported.dims),
            seed=options.seed, table=CostTable(options.cache, options.costs),
        )  # fmt: skip
        baseline = ship(folder.parent, BASELINE, clone(exported.model), costs.config)

        progress.stage("rewrite and build", 1 + len(precisions))
        equal = evaluator(costs) if options.check_each_pass else None
        passes = options.amended.of(rewrites(target, recipe.rewrites, recipe.invariants))
        base = rewrite(exported.model, costs, passes, evaluate=equal)
        check_excluded(base.model, recipe, precisions)
        found = hits(base, passes, recipe.expect_fusions)
        shown = watched(recipe, data.batches, progress)
        built = [
            build(p, base, shown, costs, evaluate=equal, amended=options.amended) for p in track(progress, precisions)
        ]
        if options.memory_budget is not None:
            check_weights([weight_bytes(b.model) for b in built if b.model is not None], options.memory_budget)

        subjects = [ship(folder, b.precision, b.model, b.session) for b in built if b.model is not None]
        evidence = gather(
            baseline, subjects, recipe, exported, evaluating=options.evaluate, seed=options.seed, progress=progress
        )
        progress.stage("plan memory, save golden vectors")
        builds, plans = _plan(subjects, built, costs.feeds)
        for subject in subjects:
            add_golden(subject, _golden_inputs(exported, options.seed))
        gaps = simulated(subjects, built, recipe, exported)
        data = add_statistics(folder, subjects, recipe, data)
        record = to_manifest(recipe, target, options.seed, exported, data, evidence, builds, plans, found, gaps)
        record = with_layers(record, by_closeness(subjects, built, costs.feeds))
        record = widened(record, subjects, options.seed)
        work = work_of([baseline, *subjects], costs.feeds)
        record = with_work(record, BASELINE, work, peaks(target, costs.table))
        planning_bugs: list[PassError] = []
        if options.memory_budget is not None:
            progress.stage("meet the memory budget")
            found_ways = climb(candidates(subjects, built), costs.feeds, options.memory_budget, planning_bugs)
            record = msgspec.structs.replace(record, budget=found_ways)
        (folder / MANIFEST).write_bytes(pretty_json(record))
        write_reports(folder, record, {name: plan.buffers for name, plan in plans.items()})
        seal(folder)
    bugs = dict.fromkeys([*base.bugs, *(b.bug for b in builds if b.bug), *planning_bugs])
    return Compiled(Artifact.load(out / recipe.name), tuple(bugs))


def _precisions(recipe: Recipe, options: Options) -> tuple[Precision, ...]:
    chosen = options.variants or recipe.variants
    if unknown := [v for v in chosen if v not in PRECISIONS]:
        raise UserError(f"unknown variant {unknown[0]!r}{suggest(unknown[0], PRECISIONS)}")
    return tuple(dict.fromkeys(chosen))


def _plan(
    subjects: Sequence[Subject], builds: Sequence[Build], feeds: Feeds
) -> tuple[list[Build], dict[str, MemoryPlan]]:
    """Plan every variant's memory; one that cannot be planned gets a note that says why."""
    of, plans, noted = {s.name: s for s in subjects}, dict[str, MemoryPlan](), list[Build]()
    for each in builds:
        try:
            if each.model is not None:
                plans[each.precision] = add_plan(of[each.precision], feeds)
            noted.append(each)
        except (UserError, CapabilityError) as error:
            noted.append(replace(each, notes=(*each.notes, f"no memory plan: {error}")))
        except PassError as error:
            noted.append(replace(each, bug=each.bug or error, notes=(*each.notes, f"no memory plan: {error}")))
    return noted, plans


def _golden_inputs(exported: Exported, seed: int) -> list[Feeds]:
    """Seeded inputs at the typical sizes, and at others if a dimension moves."""
    rng, interface = np.random.default_rng(seed), Interface.of(exported.model)
    where = [typical_sizes(exported.dims), distinct_sizes(exported.dims), least_sizes(exported.dims)]
    unique = [s for i, s in enumerate(where) if s not in where[:i]]
    return [seeded_feeds(interface, exported.inputs, sizes, rng) for sizes in unique[:2]]
