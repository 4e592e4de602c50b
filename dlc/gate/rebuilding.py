"""Builds the artifact that a gate judges once more, with something in it undone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copytree
from typing import cast

import msgspec

from dlc.artifact import SESSION, Artifact, seal
from dlc.compiler import Options, compile  # noqa: A004 - the verb's name
from dlc.pretty import pretty_json
from dlc.recipe import Precision, Recipe
from dlc.runtimes.session import SessionConfig
from dlc.sources import recipe_toml
from dlc.sources.artifacts import recipe_of
from dlc.sources.recipe_files import load_recipe
from dlc.stages.amending import AS_IT_IS, Amended
from dlc.target import Target, detect

Build = Callable[[Path], Artifact]
"""Makes an artifact inside a folder."""


@dataclass(frozen=True, slots=True)
class Rebuilder:
    """Compiles an artifact's recipe anew; its own fp32 graph, where the recipe's source is not here.

    ``cache``: of measured costs, so that what did not change is not measured again.
    """

    artifact: Artifact
    recipe: Recipe
    cache: Path | None

    @classmethod
    def of(cls, artifact: Artifact, recipe: Recipe | None, spec: str | None, cache: Path | None) -> Rebuilder:
        """Take what the gate has: a recipe, and ``spec``, which may name a TOML file with a source of its own."""
        if spec is not None and spec.endswith(".toml") and recipe_toml.read(Path(spec)).source is not None:
            recipe = load_recipe(spec)
        return cls(artifact, recipe or recipe_of(str(artifact.path)), cache)

    @property
    def whole(self) -> bool:
        """Whether the source is here, so that the passes of the FP32 graph run anew."""
        inside = isinstance(self.recipe.source, Path) and self.artifact.path in self.recipe.source.parents
        return not inside and (not isinstance(self.recipe.source, Path) or self.recipe.source.exists())

    def fault(self) -> str | None:
        """Say why nothing can be rebuilt here, None if it can."""
        target = self._target()
        if target.fingerprint != detect(target.provider, target.threads).fingerprint:
            return f"it was compiled for {target.runtime} on {'+'.join(target.isa) or target.arch}, and this is another"
        return None

    def compiled(self, variants: tuple[str, ...], amended: Amended = AS_IT_IS, recipe: Recipe | None = None) -> Build:
        """Compile these variants."""
        made, record = recipe or self.recipe, self.artifact.manifest
        options = Options(
            variants=cast("tuple[Precision, ...]", variants), seed=record.seed, evaluate=False, cache=self.cache,
            amended=amended,
        )  # fmt: skip

        def build(folder: Path) -> Artifact:
            sourced = made
            if not self.whole:
                graph = recipe_of(str(self.artifact.path))
                sourced = replace(made, source=graph.source, inputs=graph.inputs, dims=graph.dims)
            return compile(replace(sourced, name=record.name), self._target(), folder, options).artifact

        return build

    def with_session(self, precision: str, session: SessionConfig) -> Build:
        """Copy the artifact, and give one variant other session options."""

        def build(folder: Path) -> Artifact:
            copy = folder / self.artifact.path.name
            copytree(self.artifact.path, copy)
            (copy / precision / SESSION).write_bytes(pretty_json(session))
            seal(copy)
            return Artifact.load(copy)

        return build

    def _target(self) -> Target:
        return msgspec.convert(msgspec.to_builtins(self.artifact.manifest.target), Target)
