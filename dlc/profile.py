"""Measures, on a device, what decides how models are rewritten for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlc.cost_table import Cost, CostTable
from dlc.costs import Costs
from dlc.export import export
from dlc.feeds import measured_sizes
from dlc.interface import Interface
from dlc.progress import Progress
from dlc.sources.artifacts import recipe_of
from dlc.stages.loading import session_for
from dlc.stages.rewriting import rewrite, rewrites
from dlc.target import Target


@dataclass(frozen=True, slots=True)
class Profile:
    """What was measured: costs by key, and how many of them each source added."""

    target: Target
    costs: dict[str, Cost]
    added: dict[str, int]


def profile(sources: Sequence[str], target: Target, *, seed: int, cache: Path | None, progress: Progress) -> Profile:
    """Measure every form of every place of some models; without models, return the costs that are known here.

    A source is what ``dlc compile`` takes, or the artifact that it wrote for this target: its FP32 graph, at its sizes.
    """
    table, added = CostTable(cache), dict[str, int]()
    for source in sources:
        recipe = recipe_of(source)
        progress.stage(f"measure {recipe.name}", None)
        exported = export(recipe, opset=target.opset, ir_version=target.ir_version, seed=seed)
        costs = Costs.at(
            target, Interface.of(exported.model), exported.inputs, measured_sizes(exported.dims), seed=seed, table=table
        )
        known = len(table.seen)
        session_for(rewrite(exported.model, costs, rewrites(target)).model, costs)
        added[source] = len(table.seen) - known
    return Profile(target, table.everything(target.fingerprint), added)
