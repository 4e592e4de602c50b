"""Parts of a model that were tried, one JSON line each, so that a reduction that was interrupted goes on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import msgspec

from dlc import json_lines
from dlc.errors import UserError


class Head(msgspec.Struct, frozen=True, tag="reduction"):
    """The hash of all that the answers depend on."""

    key: str


class Tried(msgspec.Struct, frozen=True, tag="tried"):
    """A part, by the places of its nodes (``0-4,7``), and its symptom."""

    kept: str
    symptom: str | None


@dataclass(slots=True)
class Trials:
    """What is known of parts; each answer is on disk at once. UserError if the file belongs to another reduction."""

    file: Path
    key: str
    known: dict[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        there = self.file.exists()
        lines = list(json_lines.read(self.file, Head | Tried))
        if there and lines[:1] != [Head(self.key)]:
            raise UserError(
                f"{self.file} is of a reduction of another model, or on other terms; remove it, or write elsewhere "
                "with --output"
            )
        if not there:
            json_lines.append(self.file, Head(self.key))
        self.known.update((line.kept, line.symptom) for line in lines if isinstance(line, Tried))

    def add(self, kept: Sequence[int], symptom: str | None) -> None:
        """Remember what became of a part."""
        self.known[ranges(kept)] = symptom
        json_lines.append(self.file, Tried(ranges(kept), symptom))


def ranges(places: Iterable[int]) -> str:
    """Write ascending numbers as ranges: ``0-4,7``."""
    runs = ([n for _, n in run] for _, run in groupby(enumerate(places), lambda pair: pair[1] - pair[0]))
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
