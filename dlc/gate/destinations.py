"""Where one run of the gate writes what it came to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from dlc.errors import UserError
from dlc.gate import history
from dlc.gate.flow import Outcome
from dlc.report.gate_junit import render_gate_junit
from dlc.report.gate_summary import render_gate_summary
from dlc.report.write import check_writable, write_text


@dataclass(frozen=True, slots=True)
class Destinations:
    """Files that were asked for. ``baseline``: the one to write, if one is written."""

    junit: Path | None = None
    summary: Path | None = None
    record: Path | None = None
    baseline: Path | None = None

    def check(self) -> None:
        """Refuse what cannot be written, or would be written over, before minutes of measuring; UserError."""
        asked = dict(self._asked())
        for (one, path), (other, same) in combinations(asked.items(), 2):
            if path.resolve() == same.resolve():
                raise UserError(f"{one} and {other} are the same file, {path}: one would take the other's place")
        for path in asked.values():
            check_writable(path)
        if self.record is not None and self.record.exists():
            history.read(self.record)

    def write(self, outcome: Outcome) -> None:
        """Write all of them but the baseline, which is the gate's own."""
        if self.junit is not None:
            write_text(self.junit, render_gate_junit(outcome))
        if self.summary is not None:
            write_text(self.summary, render_gate_summary(outcome))
        if self.record is not None:
            history.append(self.record, outcome)

    def _asked(self) -> Iterator[tuple[str, Path]]:
        picture = self.record.with_suffix(history.PICTURE) if self.record is not None else None
        for name, path in (
            ("--junit", self.junit), ("--summary", self.summary), ("--record", self.record),
            ("the picture of --record", picture), ("--baseline", self.baseline),
        ):  # fmt: skip
            if path is not None:
                yield name, path
