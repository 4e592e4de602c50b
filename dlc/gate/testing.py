"""What the pytest plugin does, without pytest."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dlc.artifact import MANIFEST, Artifact
from dlc.config import Config, TargetTable, find
from dlc.gate.flow import Outcome, gate
from dlc.gate.settings import settings
from dlc.models import ZOO
from dlc.progress import Silent

if TYPE_CHECKING:
    from dlc.recipe import Precision
    from dlc.target import Target


def gate_source(
    source: str, *, variant: str | None, baseline: Path | None, root: Path, scratch: Path, update: bool,
    configuration: Path | None = None, bisect: bool = False,
) -> Outcome:  # fmt: skip
    """Gate an artifact as it is, or compile a source first; ``scratch`` keeps what was compiled.

    ``configuration``: in the place of the ``dlc.toml`` that is nearest to ``root``. ``bisect``: look for the change to
    blame, where a gate fails (``dlc.gate.bisecting``).
    """
    config = find(configuration, start=root)
    artifact, recipe = artifact_of(source, variant, root, scratch, config)
    name = artifact.manifest.name
    chosen = settings(
        name, config, recipe_file=recipe, artifact=artifact.path, baseline=root / baseline if baseline else None,
        variants=variant,
    )  # fmt: skip
    against = chosen.baseline or root / "baselines" / f"{'-'.join([name, *([variant] if variant else [])])}.json"
    outcome = gate(artifact, chosen.recipe, chosen.limits, chosen.how, against=against, update=update)
    if not bisect:
        return outcome
    from dlc.gate.bisecting import bisected  # compiles

    return bisected(outcome, artifact, replace(chosen, baseline=against), Silent())


def artifact_of(
    source: str, variant: str | None, root: Path, scratch: Path, config: Config
) -> tuple[Artifact, str | None]:
    """Load an artifact, or compile a source with the reference and the variant; also return the recipe to gate by."""
    spec = str((root / source).resolve()) if (root / source).exists() and source not in ZOO else source
    if (Path(spec) / MANIFEST).is_file():
        return Artifact.load(spec), None
    from dlc.compiler import Options, compile  # noqa: A004 - the verb's name
    from dlc.cost_table import default_cache
    from dlc.sources.recipe_files import load_recipe
    from dlc.target_file import load

    recipe = load_recipe(spec)
    wanted = tuple(dict.fromkeys(["fp32", *([variant] if variant else recipe.variants)]))
    out = scratch / hashlib.sha256(spec.encode()).hexdigest()[:16] / "-".join(wanted)  # recipes may share a name
    if (out / recipe.name / MANIFEST).is_file():
        return Artifact.load(out / recipe.name), spec
    stated = config.target(recipe.name)
    costs = None
    if stated is not None and (file := config.at(stated.file)) is not None:
        target, costs = load(file)
    else:
        target = _here(stated)
    options = Options(variants=cast("tuple[Precision, ...]", wanted), cache=default_cache(), costs=costs)
    return compile(recipe, target, out, options).artifact, spec


def explanation(outcome: Outcome) -> str:
    """Write what does not hold, and why, a line each."""
    blames = outcome.blame_of()
    text = []
    for line in outcome.lines:
        if line.status in ("fail", "inconclusive"):
            text.append(str(line))
            if (found := blames.get(line.name)) is not None:
                text += [f"  {each}" for each in found.lines()]
    return "\n".join(text)


def _here(stated: TargetTable | None) -> Target:
    from dlc.target import detect

    return detect((stated.provider if stated else None) or "cpu", (stated.threads if stated else None) or 1)
