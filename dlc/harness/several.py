"""The correction for there being several gates: each could fail by chance, and so some one of many surely would."""

from __future__ import annotations

from collections.abc import Sequence

from dlc.harness.proportions import ALPHA, holm


def by_chance(p_values: Sequence[float | None]) -> list[str | None]:
    """Say of each gate of a family why it may have failed by chance, or None where it is beyond that.

    A failure stands if its p-value, adjusted for the others, is below 5 % (S. Holm, 1979): then some gate that holds
    fails with a chance of 5 % at most, however many there are. A gate without a p-value is not one of chance.
    """
    tested = iter(holm([p for p in p_values if p is not None]))
    count = sum(p is not None for p in p_values)
    return [None if p is None else _doubt(next(tested), count) for p in p_values]


def _doubt(p: float, count: int) -> str | None:
    return None if p < ALPHA else f"not beyond chance (p = {p:.2g} among {count} gates, {ALPHA:g} asked)"
