"""Measures, on a device, what decides how models are rewritten for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dlc.artifact import MANIFEST, MODEL, Artifact, read_golden
from dlc.cost_table import Cost, CostTable
from dlc.costs import Costs
from dlc.errors import ArtifactError, DlcError
from dlc.export import export
from dlc.feeds import input_like, measured_sizes
from dlc.interface import Interface
from dlc.passes.rewrite import Rewrite
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
    """What was measured: costs by key, and how many each source added. ``bugs``: rewrites that were left out."""

    target: Target
    costs: dict[str, Cost]
    added: dict[str, int]
    bugs: tuple[DlcError, ...] = ()


def profile(
    sources: Sequence[str], target: Target, own: Sequence[Rewrite] = (), *, seed: int, cache: Path | None,
    progress: Progress,
) -> Profile:  # fmt: skip
    """Measure every form of every place of some models; without models, return the costs that are known here.

    A source is what ``dlc compile`` takes, or the artifact that it wrote for this target: its FP32 graph, at its sizes.
    ``own``: rewrites of the user's, besides those of the sources.
    """
    table, added, bugs = CostTable(cache), dict[str, int](), list[DlcError]()
    for source in sources:
        recipe = _recipe(source)
        recipe = replace(recipe, rewrites=(*recipe.rewrites, *own))
        progress.stage(f"measure {recipe.name}", None)
        exported = export(recipe, opset=target.opset, ir_version=target.ir_version, seed=seed)
        costs = Costs.at(
            target, Interface.of(exported.model), exported.inputs, measured_sizes(exported.dims), seed=seed, table=table
        )
        known = len(table.seen)
        done = rewrite(exported.model, costs, rewrites(target, recipe.rewrites))
        session_for(done.model, costs)
        bugs += done.bugs
        added[source] = len(table.seen) - known
    return Profile(target, table.everything(target.fingerprint), added, tuple(bugs))


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
