"""Parts of a model that were tried, one JSON line each, so that a reduction that was interrupted goes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import msgspec

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
        lines = list(_read(self.file)) if there else []
        if there and lines[:1] != [Head(self.key)]:
            raise UserError(
                f"{self.file} is of a reduction of another model, or on other terms; remove it, or write elsewhere "
                "with --output"
            )
        if not there:
            self.file.write_bytes(msgspec.json.encode(Head(self.key)) + b"\n")
        self.known.update((line.kept, line.symptom) for line in lines if isinstance(line, Tried))

    def add(self, kept: Sequence[int], symptom: str | None) -> None:
        """Remember what became of a part. A line that an interruption cut off is ended first."""
        self.known[ranges(kept)] = symptom
        whole = self.file.read_bytes()[-1:] == b"\n"
        with self.file.open("ab") as lines:
            lines.write((b"" if whole else b"\n") + msgspec.json.encode(Tried(ranges(kept), symptom)) + b"\n")


def ranges(places: Iterable[int]) -> str:
    """Write ascending numbers as ranges: ``0-4,7``."""
    runs = ([n for _, n in run] for _, run in groupby(enumerate(places), lambda pair: pair[1] - pair[0]))
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _read(file: Path) -> Iterator[Head | Tried]:
    for line in file.read_bytes().splitlines():
        try:
            yield msgspec.json.decode(line, type=Head | Tried)
        except msgspec.DecodeError:
            continue
