"""The allocations of one run of a session: what was observed, and where each shall lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from dlc.types import Bytes

ShapeKey = tuple[tuple[int, ...], ...]
"""Shapes of the inputs, in the order of the model."""


@dataclass(frozen=True, slots=True)
class Event:
    """The ``buffer``-th allocation of a run, of ``size`` bytes; or, with size 0, the end of that buffer."""

    buffer: int
    size: Bytes


class Allocation(msgspec.Struct, frozen=True, array_like=True):
    """An allocation of a run and its offset in the arena; None: it outlives the run, so it has none."""

    size: Bytes
    offset: Bytes | None


class Planned(Protocol):
    """What a plan says of a run; ``shapes``: of each input."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...  # noqa: D102
    @property
    def allocations(self) -> tuple[Allocation, ...]: ...  # noqa: D102
    @property
    def arena(self) -> Bytes: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Where the allocations of a run lie, in the order in which a run makes them, for inputs of these shapes.

    ``arena`` and ``lower_bound``, of any arena for these lifetimes, in bytes; ``solver``: what found the offsets.
    """

    shapes: Mapping[str, tuple[int, ...]]
    allocations: tuple[Allocation, ...]
    arena: Bytes
    lower_bound: Bytes
    solver: str

    @property
    def escaping(self) -> Bytes:
        """Bytes that outlive the run: its outputs, and what kernels keep."""
        return sum(a.size for a in self.allocations if a.offset is None)


def peak(events: Iterable[Event]) -> Bytes:
    """Return the most bytes in use at one time, those that outlive the run included."""
    sizes: dict[int, Bytes] = {}
    live = most = 0
    for event in events:
        if event.size:
            sizes[event.buffer] = event.size
            live += event.size
            most = max(most, live)
        else:
            live -= sizes[event.buffer]
    return most
