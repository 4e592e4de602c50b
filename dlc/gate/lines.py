"""One line per gate: the number, its limit, its interval and the reason; and the correction for there being several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from dlc.harness.judge import worst
from dlc.harness.several import by_chance
from dlc.manifest import Record, Status

CODES = {"pass": 0, "fail": 1, "inconclusive": 5}
LEAKAGE = "leakage"
SINCE = " since baseline"
COSTS = ("latency", "throughput", "peak memory")
"""Gates on what a model costs that chance may decide."""


class Line(Record, frozen=True, kw_only=True):
    """One gate's outcome. ``status`` null: a remark that decides nothing. ``limit`` is in the unit of ``value``."""

    variant: str
    gate: str
    status: Status | None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    reason: str

    @property
    def name(self) -> str:
        """``int8/latency``: the same in every run, whatever was measured."""
        return f"{self.variant}/{self.gate}"

    @property
    def warns(self) -> bool:
        """A remark that is shown unasked: what passes may not be worth what it says."""
        return self.status is None and self.gate == LEAKAGE

    def __str__(self) -> str:
        return f"{self.status or 'note'}: {self.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Decided:
    """A line that chance could make fail, and the p-value that it has no reason to.

    ``power``: what the data could tell at all, for a line that stays open.
    """

    line: Line
    p: float | None = None
    power: str = ""


def corrected(found: Iterable[Decided]) -> list[Line]:
    """Let a failure stand only if it is beyond chance among all gates of its family (Holm), at 5 % together.

    There are four families: what answers are worth and what they cost, since the baseline and beside FP32. The gates
    of a family answer one question; a loss of accuracy is no likelier to be chance because a latency is timed, too.
    """
    tested = list(found)
    families: dict[object, list[Decided]] = {}
    for each in tested:
        if each.p is not None:
            families.setdefault(_family(each.line.gate), []).append(each)
    doubts = {
        id(t): doubt
        for family in families.values()
        for t, doubt in zip(family, by_chance([t.p for t in family]), strict=True)
    }
    return [_with_power(_corrected(t.line, doubts.get(id(t))), t.power) for t in tested]


def _family(gate: str) -> tuple[bool, bool]:
    return gate.endswith(SINCE), gate.removesuffix(SINCE) in COSTS


def _with_power(line: Line, power: str) -> Line:
    if line.status != "inconclusive" or not power:
        return line
    return msgspec.structs.replace(line, reason=f"{line.reason}; {power}")


def _corrected(line: Line, doubt: str | None) -> Line:
    if line.status != "fail" or doubt is None:
        return line
    return msgspec.structs.replace(line, status="inconclusive", reason=f"{line.reason}; {doubt}")


def exit_code(lines: Sequence[Line]) -> int:
    """Return 1 if a gate fails, 5 if one is inconclusive, else 0."""
    return CODES[status(lines)]


def status(lines: Sequence[Line]) -> Status:
    """Return the worst; inconclusive if nothing was decided."""
    decided = [line.status for line in lines if line.status]
    return worst(decided) if decided else "inconclusive"
