"""How large ONNX Runtime's own arena must be for the allocations of runs, where it places them and not a plan.

A model of ``BFCArena`` (``core/framework/bfc_arena.cc``) as one region that is all it may have: sizes are rounded up to
256 bytes; an allocation takes the smallest free chunk that has room, the lowest of those, and the rest of the chunk
stays free; what is freed joins its free neighbours at once. What best fit wastes is therefore known to the byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from dlc.allocations import Event
from dlc.passes.offsets import lower_bound
from dlc.passes.plan_run import lifetimes
from dlc.types import Bytes

UNIT: Bytes = 256
"""The arena hands out multiples of this."""
STEADY = 2
"""Runs after the first: the second of them finds the arena as the one before it did, and so does every further one."""

Run = Sequence[Event]


def least_arena(first: Run, steady: Run) -> Bytes:
    """Return an arena in which every run has room, and none 256 bytes smaller of those that were tried has.

    ``first``: the events of a session's first run, ``steady``: of any later one. What only the first one does not free,
    kernels keep; what both do not, are outputs, which the caller lets go before the next run.
    """
    runs = [_closed(first, steady), *[_closed(steady, steady)] * STEADY]
    bound = max(lower_bound(tuple(lifetimes(run))) for run in (first, steady))
    low = max(0, bound - 1) // UNIT
    high = low + 1
    while not _fits(runs, high * UNIT):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _fits(runs, middle * UNIT) else (middle, high)
    return high * UNIT


def _closed(run: Run, steady: Run) -> list[Event]:
    """Return a run with its outputs freed at the end."""
    freed = {e.buffer for e in run if not e.size}
    outputs = Counter(_escaping(steady))
    closed = list(run)
    for event in run:
        if event.size and event.buffer not in freed and outputs[event.size]:
            outputs[event.size] -= 1
            closed.append(Event(event.buffer, 0))
    return closed


def _escaping(run: Run) -> Iterator[Bytes]:
    freed = {e.buffer for e in run if not e.size}
    yield from (e.size for e in run if e.size and e.buffer not in freed)


def _fits(runs: Sequence[Run], arena: Bytes) -> bool:
    """Whether an arena of so many bytes has room for every allocation of some runs, one after another."""
    free = [(0, arena)]
    for run in runs:
        held: dict[int, tuple[Bytes, Bytes]] = {}
        for event in run:
            if not event.size:
                _give_back(free, *held.pop(event.buffer))
                continue
            size = -(-event.size // UNIT) * UNIT
            room = [(end - start, start, i) for i, (start, end) in enumerate(free) if end - start >= size]
            if not room:
                return False
            _, start, i = min(room)
            held[event.buffer] = (start, start + size)
            free[i : i + 1] = [(start + size, free[i][1])] if free[i][1] > start + size else []
    return True


def _give_back(free: list[tuple[Bytes, Bytes]], start: Bytes, end: Bytes) -> None:
    """Insert a chunk into the free ones, which are in order of address, and join it with its neighbours."""
    i = next((k for k, chunk in enumerate(free) if chunk[0] >= end), len(free))
    low = high = i
    if i and free[i - 1][1] == start:
        start, low = free[i - 1][0], i - 1
    if i < len(free) and free[i][0] == end:
        end, high = free[i][1], i + 1
    free[low:high] = [(start, end)]
