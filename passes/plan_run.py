"""Offsets for the allocations that one run of a session was seen to make, kernel scratch included.

Time is counted in events, an allocation or a free each: finer than the nodes, so that scratch which a kernel frees
before it allocates more takes no bytes from what follows. A buffer that is not freed within the run, an output or what
a kernel keeps, is given no offset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dlc.allocations import Allocation, Event, RunPlan
from dlc.errors import PassError
from dlc.passes.offsets import Buffer, faults, lower_bound, place


def plan_run(events: Sequence[Event], shapes: Mapping[str, tuple[int, ...]]) -> RunPlan:
    """Plan a run from the events of one with inputs of these shapes; PassError if two buffers would share bytes."""
    buffers = tuple(lifetimes(events))
    placed = place(buffers)
    if fault := next(faults(buffers, placed.offsets), None):
        raise PassError("plan-run", fault)
    allocations = tuple(Allocation(e.size, placed.offsets.get(str(e.buffer))) for e in events if e.size)
    return RunPlan(dict(shapes), allocations, placed.arena, lower_bound(buffers), placed.solver)


def lifetimes(events: Sequence[Event]) -> Iterator[Buffer]:
    """Return the buffers that begin and end within the run, named by their index."""
    begun: dict[int, tuple[int, int]] = {}
    for time, event in enumerate(events):
        if event.size:
            begun[event.buffer] = (time, event.size)
        else:
            first, size = begun.pop(event.buffer)
            yield Buffer(str(event.buffer), size, first, time)
