"""What a user says about the variant ``mixed``, on the command line or in TOML, to typed options."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dlc.errors import RecipeError
from dlc.quantities import seconds, size
from dlc.search import Mixing, Objective


class Stated(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is said; None where nothing is. One objective of three; sizes and times with their units."""

    keep: float | None = None
    within_ms: float | None = None
    within_size: str | None = None
    evaluations: int | None = None
    time_budget: str | None = None


def applied(stated: Stated, before: Mixing) -> Mixing:
    """Put what is stated in the place of what was; an objective replaces the one before."""
    within = None if stated.within_size is None else size(stated.within_size)
    given = (stated.keep, stated.within_ms, within)
    return Mixing(
        before.objective if given == (None, None, None) else Objective(*given),
        before.evaluations if stated.evaluations is None else stated.evaluations,
        before.seconds if stated.time_budget is None else seconds(stated.time_budget),
    )


def from_command_line(stated: Stated, before: Mixing, variants: Sequence[str]) -> Mixing:
    """Do the same; RecipeError names an option that would have no effect."""
    given = [f"--{k.replace('_', '-')}" for k, v in msgspec.structs.asdict(stated).items() if v is not None]
    if given and "mixed" not in variants:
        raise RecipeError(f"{given[0]} is about the variant mixed, which is not built: add it to --variants")
    return applied(stated, before)
