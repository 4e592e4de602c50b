"""Measures, on a device, what decides how models are rewritten for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dlc.cost_table import Cost, CostTable
from dlc.costs import Costs
from dlc.errors import DlcError
from dlc.export import export
from dlc.feeds import measured_sizes
from dlc.interface import Interface
from dlc.passes.rewrite import Rewrite
from dlc.peaks import peaks
from dlc.progress import Progress
from dlc.sources.artifacts import recipe_of
from dlc.stages.defaults import rewrites
from dlc.stages.loading import session_for
from dlc.stages.rewriting import rewrite
from dlc.target import Target


@dataclass(frozen=True, slots=True)
class Profile:
    """What was measured: costs by key, and how many each source added. ``bugs``: rewrites that were left out."""

    target: Target
    costs: dict[str, Cost]
    added: dict[str, int]
    bugs: tuple[DlcError, ...] = ()


def profile(
    sources: Sequence[str], target: Target, own: Sequence[Rewrite] = (), *, seed: int, cache: Path | None,
    progress: Progress,
) -> Profile:  # fmt: skip
    """Measure every form of every place of some models; without models, the costs that are known here, and its peaks.

    A source is what ``dlc compile`` takes, or the artifact that it wrote for this target: its FP32 graph, at its sizes.
    ``own``: rewrites of the user's, besides those of the sources.
    """
    table, added, bugs = CostTable(cache), dict[str, int](), list[DlcError]()
    for source in sources:
        recipe = recipe_of(source)
        recipe = replace(recipe, rewrites=(*recipe.rewrites, *own))
        progress.stage(f"measure {recipe.name}", None)
        exported = export(recipe, opset=target.opset, ir_version=target.ir_version, seed=seed)
        costs = Costs.at(
            target, Interface.of(exported.model), exported.inputs, measured_sizes(exported.dims), seed=seed, table=table
        )
        known = len(table.seen)
        done = rewrite(exported.model, costs, rewrites(target, recipe.rewrites, recipe.invariants))
        session_for(done.model, costs)
        bugs += done.bugs
        added[source] = len(table.seen) - known
    peaks(target, table)
    return Profile(target, table.everything(target.fingerprint), added, tuple(bugs))
