"""STS-B, the semantic textual similarity benchmark: pairs of sentences with a human score from 0 to 5.

One pair a line, tab separated without quoting: the score is the fifth column, the sentences the sixth and seventh;
some lines carry further columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlc.errors import DataError

SOURCE = "STS benchmark, SemEval 2012-2017, CC BY-SA 4.0"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sentences and how close people found them."""

    score: float
    sentences: tuple[str, str]


def read(path: Path) -> list[Pair]:
    """Read a file of pairs; DataError names the line that is not one."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; $DLC_DATA/stsb holds the STS-B files") from error
    return [_pair(path, number, line) for number, line in enumerate(lines, start=1) if line]


def by_length(pairs: Sequence[Pair]) -> list[Pair]:
    """Sort by the longer sentence, so that batches need little padding; equal lengths keep their order."""
    return sorted(pairs, key=lambda pair: max(map(len, pair.sentences)))


def _pair(path: Path, number: int, line: str) -> Pair:
    columns = line.split("\t")
    try:
        return Pair(float(columns[4]), (columns[5], columns[6]))
    except (IndexError, ValueError) as error:
        raise DataError(f"{path}, line {number}: expected a score in column 5 and sentences in 6 and 7") from error
