"""Where in one arena each buffer lies, so that no two share bytes while both are alive.

``place`` solves, ``faults`` checks; they share nothing but ``Buffer``.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlc.types import Array, Bytes, Step

ALIGNMENT: Bytes = 64
"""Every buffer starts at a multiple of this: the line of a cache, the widest vector register."""
WHOLE_PORTFOLIO = 2_000
"""With more buffers than this only the two orders that win most often are tried; placing is quadratic."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """Alive at steps first <= t < last."""

    name: str
    size: Bytes
    first: Step
    last: Step


@dataclass(frozen=True, slots=True)
class Placement:
    """Offset of each buffer by name, and the order of placing that gave the smallest arena."""

    offsets: Mapping[str, Bytes]
    arena: Bytes
    solver: str


def aligned(size: Bytes) -> Bytes:
    """Round up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def lower_bound(buffers: Sequence[Buffer]) -> Bytes:
    """Return the most bytes alive at one step: no arena is smaller."""
    change: dict[Step, Bytes] = {}
    for b in buffers:
        change[b.first] = change.get(b.first, 0) + aligned(b.size)
        change[b.last] = change.get(b.last, 0) - aligned(b.size)
    live = peak = 0
    for step in sorted(change):
        live += change[step]
        peak = max(peak, live)
    return peak


Order = Callable[[Buffer], tuple[Any, ...]]
ORDERS: Mapping[str, Order] = {
    "size": lambda b: (-b.size, b.first - b.last, b.first, b.name),
    "area": lambda b: (-b.size * (b.last - b.first), -b.size, b.first, b.name),
    "start": lambda b: (b.first, -b.size, b.name),
    "end": lambda b: (-b.last, -b.size, b.name),
    "lifetime": lambda b: (b.first - b.last, -b.size, b.first, b.name),
    "lifetime-size": lambda b: (b.first - b.last >= -2, -b.size, b.first, b.name),
    "start-lifetime": lambda b: (b.first, b.first - b.last, -b.size, b.name),
}
"""Orders of placing, the most often best first."""


def place(buffers: Sequence[Buffer]) -> Placement:
    """Place greedily in several orders; stop at an arena that reaches the lower bound, else keep the smallest."""
    bound = lower_bound(buffers)
    names = list(ORDERS) if len(buffers) <= WHOLE_PORTFOLIO else list(ORDERS)[:2]
    best: Placement | None = None
    for name in names:
        ordered = sorted(buffers, key=ORDERS[name])
        for fit in ("best", "first"):
            offsets = _place(ordered, tightest=fit == "best")
            arena = max((offsets[b.name] + aligned(b.size) for b in buffers), default=0)
            if best is None or arena < best.arena:
                best = Placement(offsets, arena, f"greedy {name}, {fit} fit")
            if arena == bound:
                return best
    assert best is not None
    return best


def _place(ordered: Sequence[Buffer], *, tightest: bool) -> dict[str, Bytes]:
    """Give each buffer the lowest, or the tightest, gap between those placed before it that live when it does."""
    n = len(ordered)
    first = np.fromiter((b.first for b in ordered), np.int64, n)
    last = np.fromiter((b.last for b in ordered), np.int64, n)
    size = np.fromiter((aligned(b.size) for b in ordered), np.int64, n)
    offset = np.zeros(n, np.int64)
    for i in range(n):
        rivals = np.flatnonzero((first[:i] < last[i]) & (last[:i] > first[i]))
        offset[i] = _gap(offset[rivals], size[rivals], int(size[i]), tightest=tightest)
    return {b.name: int(o) for b, o in zip(ordered, offset, strict=True)}


def _gap(offset: Array, size: Array, wanted: Bytes, *, tightest: bool) -> Bytes:
    """Return the start of a gap of ``wanted`` bytes between occupied ranges, the end of the last one if none fits."""
    if len(offset) == 0:
        return 0
    order = np.argsort(offset, kind="stable")
    start, end = offset[order], np.maximum.accumulate((offset + size)[order])
    gaps = start - np.concatenate([[0], end[:-1]])
    fits = np.flatnonzero(gaps >= wanted)
    if len(fits) == 0:
        return int(end[-1])
    chosen = fits[np.argmin(gaps[fits])] if tightest else fits[0]
    return int(end[chosen - 1]) if chosen else 0


def faults(buffers: Sequence[Buffer], at: Mapping[str, Bytes]) -> Iterator[str]:
    """Say every way in which offsets are wrong, looking at each buffer with every one that starts while it lives."""
    for b in buffers:
        if b.name not in at:
            yield f"{b.name} has no offset"
        elif at[b.name] < 0 or at[b.name] % ALIGNMENT:
            yield f"{b.name} lies at {at[b.name]}, which is negative or not a multiple of {ALIGNMENT}"
    alive: list[tuple[Step, int, Buffer]] = []
    for i, b in enumerate(sorted((b for b in buffers if b.name in at), key=lambda b: b.first)):
        while alive and alive[0][0] <= b.first:
            heapq.heappop(alive)
        for _, _, a in alive:
            if at[a.name] < at[b.name] + b.size and at[b.name] < at[a.name] + a.size:
                yield f"{a.name} and {b.name} share bytes while both are alive"
        if b.last > b.first:
            heapq.heappush(alive, (b.last, i, b))
