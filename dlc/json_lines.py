"""A log of records, one line of JSON each, that outlives an interruption: each is on disk at once.

A line that was cut off is passed over when the log is read, and ended before the next one is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec


def read(file: Path, kind: Any) -> Iterator[Any]:
    """Yield the records of ``kind``, a type that msgspec knows; of a file that is not there, none."""
    for line in file.read_bytes().splitlines() if file.is_file() else ():
        try:
            yield msgspec.json.decode(line, type=kind)
        except msgspec.DecodeError:
            continue


def append(file: Path, record: msgspec.Struct) -> None:
    """Append a record; the file, and the folder that it lies in, are made if they are not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = not file.is_file() or file.read_bytes()[-1:] in (b"", b"\n")
    with file.open("ab") as lines:
        lines.write((b"" if whole else b"\n") + msgspec.json.encode(record) + b"\n")
