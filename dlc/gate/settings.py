"""What one gate is run with: the command line before ``dlc.toml``, before the recipe, before the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from dlc.config import Config
from dlc.errors import RecipeError, UserError
from dlc.gate.limits import Limits
from dlc.gate.timing import How
from dlc.models import ZOO
from dlc.recipe import INSTEAD, PRECISIONS, Gates, Recipe, suggest
from dlc.sources.recipe_files import declared

OF_RECIPE = {f.name for f in fields(Gates)}


@dataclass(frozen=True, slots=True)
class Settings:
    """Recipe, limits and how to measure; ``baseline`` None: nothing to compare with. ``spec`` names the recipe."""

    recipe: Recipe | None
    limits: Limits
    how: How
    baseline: Path | None
    spec: str | None = None


def settings(
    name: str, config: Config, *, recipe_file: str | None, artifact: Path, baseline: Path | None = None,
    variants: str | None = None, dims: Mapping[str, int] | None = None, seed: int = 0,
) -> Settings:  # fmt: skip
    """Gather them for one model."""
    stated = config.model(name)
    spec = _spec(name, config, recipe_file)
    recipe = recipe_of(name, spec, artifact)
    limits = _limits(name, recipe, config)
    _check_target(name, config, artifact)
    how = How(
        variants=_variants(variants, stated.variants), seed=seed, objective=limits.objective,
        concurrency=limits.concurrency, dims={**stated.dims, **(dims or {})},
    )  # fmt: skip
    return Settings(recipe, limits, how, baseline or config.at(stated.baseline), spec)


def _limits(name: str, recipe: Recipe | None, config: Config) -> Limits:
    own = config.model(name).gates.stated()
    try:
        return limits_of(recipe, {**config.document.gates.stated(), **own}, own)
    except RecipeError as error:  # the recipe's own were checked when it was read
        raise RecipeError(f"{config.path}: model {name!r}: {error}") from error


def _spec(name: str, config: Config, named: str | None) -> str | None:
    """Return what names the recipe: the command line, else the configuration, else the zoo's of that name."""
    stated = config.model(name).recipe
    if named is None and stated is not None:
        resolved = config.root / stated
        return str(resolved) if resolved.exists() else stated
    return name if named is None and name in ZOO else named


def recipe_of(name: str, spec: str | None, artifact: Path) -> Recipe | None:
    """Load a recipe for the data, the metric and the gates that it declares of an artifact."""
    if spec is None:
        return None
    recipe = declared(spec, artifact / f"{name}.onnx")
    if Path(spec).suffix.lower() != ".toml" and recipe.name != name:
        raise RecipeError(
            f"recipe {spec} is of {recipe.name!r}, the artifact {artifact} of {name!r}: name the right one"
        )
    return recipe


def limits_of(recipe: Recipe | None, stated: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> Limits:
    """Put stated gates in the place of the recipe's. A model's share takes the place of a distance (``INSTEAD``)."""
    gates = recipe.gates if recipe is not None else Gates()
    changed = {k: v for k, v in stated.items() if k in OF_RECIPE}
    for share, distance in INSTEAD.items():
        latest = own if own and {share, distance} & set(own) else stated
        if share in latest and distance not in latest:
            changed[distance] = None
    beside = {k: v for k, v in stated.items() if k not in OF_RECIPE}
    return Limits(recipe=replace(gates, **changed), **beside)


def _variants(given: str | None, stated: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if given is None:
        return stated
    chosen = tuple(v.strip() for v in given.split(","))
    if unknown := [v for v in chosen if v not in PRECISIONS]:
        raise UserError(f"unknown variant {unknown[0]!r}{suggest(unknown[0], PRECISIONS)}")
    return chosen


def _check_target(name: str, config: Config, artifact: Path) -> None:
    """The artifact must be of the target that the configuration states for its model."""
    from dlc.artifact import Artifact
    from dlc.target_file import load

    if (wanted := config.target(name)) is None:
        return
    target = Artifact.load(artifact).manifest.target
    stated: dict[str, Any] = {"provider": wanted.provider, "threads": wanted.threads}
    if (file := config.at(wanted.file)) is not None:
        found, _ = load(file)
        stated = {"provider": found.provider, "threads": found.threads, "arch": found.arch, "isa": found.isa}
    for what, value in stated.items():
        if value is not None and (own := getattr(target, what)) != value:
            raise RecipeError(
                f"{artifact} was compiled for {what} {own}, {config.path} states {value} for {name!r}: compile it for "
                f"that target"
            )
