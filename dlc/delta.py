"""Delta debugging: the least of many things that still makes something fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def smallest(things: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """Return some of the things, in order, that fail together, such that no single one can be left out.

    All of them fail together. One culprit among n is found with about 2·log2(n) calls; several that fail only together
    take more, n² at worst. The algorithm is ddmin (Zeller and Hildebrandt, Simplifying and Isolating Failure-Inducing
    Input, 2002). No set is tried twice.
    """
    tried: dict[tuple[int, ...], bool] = {}

    def failing(kept: tuple[int, ...]) -> bool:
        if kept not in tried:
            tried[kept] = fails([things[i] for i in kept])
        return tried[kept]

    if failing(()):
        return []
    left, parts = tuple(range(len(things))), 2
    while len(left) > 1:
        pieces = list(_split(left, parts))
        rests = [tuple(i for i in left if i not in piece) for piece in pieces]
        if (piece := next(filter(failing, pieces), None)) is not None:
            left, parts = piece, 2
        elif (rest := next(filter(failing, rests), None)) is not None:
            left, parts = rest, max(parts - 1, 2)
        elif parts < len(left):
            parts = min(2 * parts, len(left))
        else:
            break
    return [things[i] for i in left]


def _split(items: tuple[int, ...], parts: int) -> Iterator[tuple[int, ...]]:
    """Cut into so many pieces, none empty, whose lengths differ by one at most."""
    for i in range(parts):
        yield items[len(items) * i // parts : len(items) * (i + 1) // parts]
