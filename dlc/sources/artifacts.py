"""An artifact as a source: its FP32 graph, with the sizes and the inputs that it was compiled with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dlc.artifact import MANIFEST, MODEL, Artifact, read_golden
from dlc.errors import ArtifactError
from dlc.feeds import input_like
from dlc.interface import Interface
from dlc.recipe import Dim, Recipe
from dlc.sources import onnx_files
from dlc.sources.recipe_files import load_recipe
from dlc.versions import TABLE

FP32 = "fp32"


def recipe_of(source: str, overrides: Path | None = None) -> Recipe:
    """Return the recipe of a source; of an artifact, what its manifest and golden vectors tell.

    ``overrides``: a TOML recipe that declares the rest of a source that is no artifact.
    """
    folder = Path(source)
    if not (folder / MANIFEST).is_file():
        return load_recipe(source, overrides)
    if overrides is not None:
        raise ArtifactError(f"{folder} is an artifact and says itself what {overrides} would declare: leave it out")
    artifact = Artifact.load(folder)
    if FP32 not in [v.precision for v in artifact.built]:
        raise ArtifactError(f"{folder} has no fp32 variant, whose graph is wanted: dlc compile --variants fp32")
    model = folder / FP32 / MODEL
    dims = {name: Dim(low, high, typical) for name, (low, high, typical) in artifact.manifest.dims.items()}
    [(examples, _), *_] = read_golden(folder / FP32)
    inputs = {
        t.name: replace(input_like(examples[t.name]), shape=tuple(d if d is not None else 1 for d in t.shape or ()))
        for t in Interface.of(onnx_files.read(model, max(TABLE.values())[0])).inputs
    }
    return Recipe(name=artifact.manifest.name, source=model, inputs=inputs, dims=dims)
