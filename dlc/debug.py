"""Looks into passes that go wrong, on a model as ``dlc compile`` would take it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from dlc import data
from dlc.bisection import Bisection, Culprit, Trial, bisect, by_design
from dlc.errors import RecipeError, UserError
from dlc.export import Exported, export
from dlc.feeds import Declared, at_sizes, compared_sizes, seeded_feeds
from dlc.interface import Interface, sizes_of
from dlc.passes import PASSES
from dlc.passes.base import Pass
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.naming import matching
from dlc.passes.rewrite import Rewrite
from dlc.progress import Progress
from dlc.recipe import Dataset, Dim, Recipe, suggest
from dlc.sources.recipe_files import FACTORY
from dlc.sources.user_code import look_up
from dlc.stages.defaults import rewrites
from dlc.target import Target

BATCHES = 1
"""Calibration batches that are run besides the seeded inputs: real data, with padding as it comes."""


def bisect_recipe(
    recipe: Recipe, target: Target, *, passes: Sequence[str], dims: Mapping[str, int], seed: int, progress: Progress
) -> Bisection:
    """Bisect the FP32 passes on a recipe's model, exported for a target; ``passes`` names some of them, or own ones.

    ``dims``: sizes that take the place of those that are declared.
    """
    chosen = choose_passes(passes, target, recipe.rewrites)
    progress.stage("export")
    exported = export(recipe, opset=target.opset, ir_version=target.ir_version, seed=seed)
    return bisect(exported.model, chosen, list(_trials(exported, recipe.calibration, dims, seed)), progress)


def pipeline_passes(target: Target, own: Sequence[Rewrite] = ()) -> tuple[Pass, ...]:
    """Passes that make the FP32 graph, in order; ``own``: a recipe's."""
    return (Canonicalize(), *rewrites(target, own))


def choose_passes(words: Sequence[str], target: Target, own: Sequence[Rewrite] = ()) -> tuple[Pass, ...]:
    """Return the FP32 passes that are named, after Canonicalize and in their order; without names, all of them.

    ``attention`` is short for ``fuse-attention``; ``package.module:attribute`` names a pass of the user's own.
    """
    canonicalize, *ours = pipeline_passes(target, own)
    names, given = set[str](), list[Pass]()
    for word in words:
        if FACTORY.fullmatch(word):
            given.append(_own_pass(word))
            continue
        found = matching(word, [canonicalize.name, *(p.name for p in ours)])
        if not found and (others := matching(word, PASSES)):
            raise by_design(others[0])
        if not found:
            raise UserError(f"no pass is named {word!r}{suggest(word, [p.name for p in ours])}")
        names.update(found)
    return (canonicalize, *(p for p in ours if p.name in names or not words), *given)


def way_out(culprit: Culprit, first: str, target: Target, command: str) -> str:
    """Say what to do about a pass at fault; nothing for one of the user's own. ``first``: the name of the first feeds.

    A compile leaves a rewrite of ours out if it breaks a promise, and, when it checks each pass, if that changes the
    numbers at the typical sizes.
    """
    canonicalize, *ours = pipeline_passes(target)
    if culprit.name == canonicalize.name:
        return "a bug of dlc, and every compile runs this pass: report it, with the lines above"
    if culprit.name not in {p.name for p in ours}:
        return ""
    if culprit.kind in ("crashes", "breaks a promise"):
        return f"a bug of dlc; this compiles without the pass: {command}"
    if first in culprit.differs_at:
        return f"a bug of dlc; this compiles without the pass: {command} --check-each-pass"
    return "a bug of dlc that no check of a compile would see: report it, with the lines above"


def _own_pass(spec: str) -> Pass:
    found = look_up(spec, Path.cwd())
    made = found() if isinstance(found, type) and issubclass(found, Pass) else found
    if not isinstance(made, Pass):
        raise RecipeError(f"{spec} is no pass: it is {type(made).__name__}; see docs/passes.md")
    return made


def _trials(exported: Exported, calibration: Dataset | None, dims: Mapping[str, int], seed: int) -> Iterator[Trial]:
    """Seeded inputs at several sizes, the first as ``--check-each-pass`` draws them, then calibration data."""
    if unknown := [d for d in dims if d not in exported.dims]:
        raise UserError(f"no dynamic dimension is named {unknown[0]!r}{suggest(unknown[0], exported.dims)}")
    interface, rng = Interface.of(exported.model), np.random.default_rng(seed)
    fixed = {name: Dim(size, size, size) for name, size in dims.items()}
    for sizes in compared_sizes(Declared(exported.inputs, {**exported.dims, **fixed})):
        yield Trial(at_sizes(sizes), seeded_feeds(interface, exported.inputs, sizes, rng))
    for where, feeds in islice(data.checked(calibration, interface), BATCHES) if calibration else ():
        if dims.items() <= sizes_of(interface, feeds).items():
            yield Trial(where, feeds)
