"""Measures, on a device, what decides how models are rewritten for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dlc.artifact import MANIFEST, MODEL, Artifact, read_golden
from dlc.cost_table import Cost, CostTable
from dlc.costs import Costs
from dlc.errors import ArtifactError
from dlc.export import export
from dlc.feeds import input_like, measured_sizes
from dlc.interface import Interface
from dlc.progress import Progress
from dlc.recipe import Dim, Recipe
from dlc.sources import onnx_files
from dlc.sources.recipe_files import load_recipe
from dlc.stages.loading import session_for
from dlc.stages.rewriting import rewrite, rewrites
from dlc.target import Target
from dlc.versions import TABLE

FP32 = "fp32"


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
        recipe = _recipe(source)
        progress.stage(f"measure {recipe.name}", None)
        exported = export(recipe, opset=target.opset, ir_version=target.ir_version, seed=seed)
        costs = Costs.at(
            target, Interface.of(exported.model), exported.inputs, measured_sizes(exported.dims), seed=seed, table=table
        )
        known = len(table.seen)
        session_for(rewrite(exported.model, costs, rewrites(target, recipe.invariants)).model, costs)
        added[source] = len(table.seen) - known
    return Profile(target, table.everything(target.fingerprint), added)


def _recipe(source: str) -> Recipe:
    """Return the recipe of a source; of an artifact, what its manifest and golden vectors tell."""
    folder = Path(source)
    if not (folder / MANIFEST).is_file():
        return load_recipe(source)
    artifact = Artifact.load(folder)
    if FP32 not in [v.precision for v in artifact.built]:
        raise ArtifactError(f"{folder} has no fp32 variant, whose graph is measured: dlc compile --variants fp32")
    model = folder / FP32 / MODEL
    dims = {name: Dim(low, high, typical) for name, (low, high, typical) in artifact.manifest.dims.items()}
    [(examples, _), *_] = read_golden(folder / FP32)
    inputs = {
        t.name: replace(input_like(examples[t.name]), shape=tuple(d if d is not None else 1 for d in t.shape or ()))
        for t in Interface.of(onnx_files.read(model, max(TABLE.values())[0])).inputs
    }
    return Recipe(name=artifact.manifest.name, source=model, inputs=inputs, dims=dims)
