"""Which nodes stay in FP32 because the recipe says so: patterns of names and operator types, to names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

import onnx_ir as ir

from dlc.errors import RecipeError
from dlc.passes.base import all_nodes
from dlc.passes.weighted import label
from dlc.recipe import Precision, Recipe

NEAREST = 3
ALIKE = 0.4
"""Share of characters in common above which a name is worth naming: a pattern is seldom as long as a name."""


def check_excluded(model: ir.Model, recipe: Recipe, precisions: Iterable[Precision]) -> None:
    """Raise RecipeError for a pattern of one of these precisions that matches nothing in the rewritten graph."""
    for precision in precisions:
        if (options := recipe.options(precision)) is not None:
            excluded(model, options.exclude)


def excluded(model: ir.Model, patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the labels of the nodes whose name or operator type a pattern matches, in graph order.

    RecipeError for a pattern that matches none; it names the nearest names and types.
    """
    types = {label(node): node.op_type for node in all_nodes(model.graph)}
    if idle := [p for p in patterns if not any(_matches(p, name, op) for name, op in types.items())]:
        raise RecipeError(
            f"exclude: {idle[0]!r} matches no node and no operator of the rewritten graph{_near(idle[0], types)}"
        )
    return tuple(name for name, op in types.items() if any(_matches(p, name, op) for p in patterns))


def _matches(pattern: str, name: str, op: str) -> bool:
    """Whether a pattern is a name, which may hold brackets, or matches it or the type."""
    return pattern == name or fnmatchcase(name, pattern) or fnmatchcase(op, pattern)


def _near(pattern: str, types: dict[str, str]) -> str:
    known = {word.lower(): word for word in (*types.values(), *types)}
    found = get_close_matches(pattern.strip("*?").lower(), known, n=NEAREST, cutoff=ALIKE)
    named = [known[each] for each in found] or list(known.values())[:NEAREST]
    return f"; {'the nearest are' if found else 'there are'} {', '.join(map(repr, named))}"
