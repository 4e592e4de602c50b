"""Offsets for buffers that greedy placing leaves above the lower bound: an exact search, where it is installed.

omnimalloc's SuperMalloc (branch and bound over canonical solutions, after Moffitt, ASPLOS 2023) is asked in slices that
double, with one way of ordering buffers after another: what one way does not solve in minutes, another mostly does in a
blink. It stops at its lower bound; a filler of the size that is asked for, alive when nothing else is, makes that the
bound, so that it looks for an arena of that size and not for the smallest.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from dlc.passes.offsets import ALIGNMENT, Buffer, Placement, aligned, lower_bound, place
from dlc.types import Bytes

SECONDS = 10.0
SLICE = 0.3
"""Seconds of the first slices: most problems that a way of ordering solves at all, it solves in a tenth of this."""
WAYS = ("TWA", "TAW", "WAT", "TCW", "LUW")
"""Sort keys of omnimalloc, those that solved most of minimalloc's hard problems alone first."""
MOST = 2_000
"""With more buffers than this setting the search up takes longer than it may."""
THREADS = 2
"""One looks below the best arena so far, the other for the one that is asked for."""


@cache
def exact() -> bool:
    """Whether the exact search is installed."""
    from importlib.util import find_spec

    return find_spec("omnimalloc") is not None


def pack(buffers: Sequence[Buffer], goal: Bytes | None = None, *, seconds: float = SECONDS) -> Placement:
    """Place greedily; where the arena is above ``goal``, the lower bound by default, search for at most ``seconds``."""
    found = place(buffers)
    wanted = lower_bound(buffers) if goal is None else goal
    if found.arena <= wanted or len(buffers) > MOST or not exact():
        return found
    return _search(buffers, found, wanted, seconds)


def _search(buffers: Sequence[Buffer], found: Placement, goal: Bytes, seconds: float) -> Placement:
    from omnimalloc import Allocation
    from omnimalloc.allocators.supermalloc import SortKey, SupermallocAllocator

    problem = [
        Allocation(i, aligned(b.size) // ALIGNMENT, b.first, b.last)
        for i, b in enumerate(buffers)
        if b.last > b.first and b.size > 0
    ]
    after = max(b.last for b in buffers) + 1
    problem.append(Allocation(len(buffers), goal // ALIGNMENT, after, after + 1))
    deadline, slice_ = time.monotonic() + seconds, SLICE
    while True:
        for way in WAYS:
            left = deadline - time.monotonic()
            if left <= 0:
                return found
            solver = SupermallocAllocator(
                timeout=min(slice_, left), heuristics=(tuple(map(SortKey, way)),), num_threads=THREADS
            )
            solved = solver.solve(tuple(problem))
            if solved.peak * ALIGNMENT < found.arena:
                found = _placement(buffers, solved.allocations, way)
            if found.arena <= goal:
                return found
            if solved.proved_optimal:
                return replace(found, solver=f"{found.solver}, proved optimal")
        slice_ *= 2


def _placement(buffers: Sequence[Buffer], solved: Iterable[Any], way: str) -> Placement:
    at = {int(a.id): int(a.offset) * ALIGNMENT for a in solved}
    offsets = {b.name: at.get(i, 0) for i, b in enumerate(buffers)}
    arena = max(offsets[b.name] + aligned(b.size) for b in buffers)
    return Placement(offsets, arena, f"omnimalloc supermalloc {way}")
