"""How much of the time something else had a CPU that a model of several threads needed.

A thread's own CPU time tells nothing there: threads wait for each other, and those of idle sessions spin. But the
system counts how long each CPU was busy, and a process how long it had CPUs: the difference is what others had. As long
as that fits on the CPUs which the model leaves free, it is in nobody's way.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")
BUSY = (0, 1, 2, 5, 6, 7)
"""Columns of /proc/stat that are no rest: user, nice, system, irq, softirq, and what a hypervisor stole."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Seconds by the clock, that this process had CPUs, and that the CPUs it may use were busy; None if unknown."""

    clock: float
    own: float
    busy: float | None

    @classmethod
    def now(cls) -> Moment:
        """Read the clocks; ``busy`` is known on Linux, also in a container, which sees the CPUs of its host."""
        return cls(time.perf_counter(), time.process_time(), busy_seconds(usable()) if STAT.is_file() else None)


def usable() -> Collection[int]:
    """Return the CPUs that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def busy_seconds(cpus: Collection[int], stat: Path = STAT) -> float | None:
    """Add up how long these CPUs were busy since the system started; None where it does not say."""
    rows = (line.split() for line in stat.read_text(encoding="ascii", errors="replace").splitlines())
    times = {row[0]: row[1:] for row in rows if row}
    try:
        ticks = sum(int(times[f"cpu{cpu}"][column]) for cpu in cpus for column in BUSY)
    except (KeyError, IndexError, ValueError):
        return None
    return ticks / os.sysconf("SC_CLK_TCK")


def crowded(start: Moment, end: Moment, *, threads: int, cpus: int) -> float | None:
    """Share of the time in which others had a CPU that one of so many threads needed; None where unknown.

    One thread that waits holds up all: what others had beyond the free CPUs counts in full, not a thread's share of it.
    """
    if start.busy is None or end.busy is None or end.clock <= start.clock:
        return None
    others = (end.busy - start.busy - (end.own - start.own)) / (end.clock - start.clock)  # in CPUs
    return min(1.0, max(0.0, others - max(0, cpus - threads)))
