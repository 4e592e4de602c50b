"""Zip files of which every byte is determined by the names and contents in them.

Entries are stored, sorted by name, with one date and one mode; so what is unpacked is never larger than the file, and a
file in which any byte is another one is not the zip of its contents. Names are checked before anything is unpacked.
"""

from __future__ import annotations

import filecmp
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from dlc.errors import ArtifactError
from dlc.types import Bytes

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest date of the format."""
MODE = stat.S_IFREG | 0o644
UNIX = 3
NAME: Bytes = 255
"""What a part of a path may take where files are kept."""
DAMAGE = (
    zipfile.BadZipFile, EOFError, FileExistsError, NotADirectoryError, NotImplementedError, RuntimeError, ValueError,
)  # fmt: skip
"""What zipfile and unpacking raise of a file that is not as ``pack`` writes it; a full disk is none of these."""
FILES = 10_000
"""More entries than this are refused: the largest package has some dozens."""


def pack(folder: Path, path: Path) -> None:
    """Write every file below a folder into a zip."""
    _write({p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}, path)


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Yield a package as a folder: itself, or the content of a zip, which is gone afterwards.

    ArtifactError if a file is not, byte for byte, the zip that ``pack`` would write of what is in it.
    """
    if not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="dlc-") as scratch:
        folder, again = Path(scratch) / "package", Path(scratch) / "again.zip"
        unpack(path, folder)
        pack(folder, again)
        if not filecmp.cmp(path, again, shallow=False):
            raise ArtifactError(f"{path.name} is not, byte for byte, the zip of what is in it: it was changed")
        yield folder.resolve()


def unpack(path: Path, folder: Path) -> None:
    """Unpack into a folder that does not exist yet; ArtifactError names the entry that is not as ``pack`` writes it."""
    try:
        with zipfile.ZipFile(path) as file:
            entries = list(_checked(file, path.stat().st_size))
            folder.mkdir()
            for entry in entries:
                _unpack(file, entry, folder / entry.filename)
    except DAMAGE as error:
        raise ArtifactError(f"{path.name} is damaged, or is no zip: {error}") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be unpacked: {error}") from error


def _unpack(file: zipfile.ZipFile, entry: zipfile.ZipInfo, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with file.open(entry) as packed, place.open("xb") as plain:
        shutil.copyfileobj(packed, plain)


def _checked(file: zipfile.ZipFile, size: int) -> Iterator[zipfile.ZipInfo]:
    """Yield the entries if all are harmless."""
    entries = file.infolist()
    if len(entries) > FILES:
        raise ArtifactError(f"{len(entries):,} entries; a package has at most {FILES:,}")
    if len({e.filename.casefold() for e in entries}) < len(entries):
        raise ArtifactError("two entries have the same name")
    if (unpacked := sum(e.file_size for e in entries)) > size:
        raise ArtifactError(f"the entries state {unpacked:,} bytes, more than the {size:,} of the file itself")
    for entry in entries:
        if (problem := _problem(entry)) is not None:
            raise ArtifactError(f"entry {entry.filename!r} {problem}")
        yield entry


def _problem(entry: zipfile.ZipInfo) -> str | None:
    name = entry.orig_filename
    parts = PurePosixPath(name).parts
    if (
        not parts
        or name != "/".join(parts)
        or ".." in parts
        or "\\" in name
        or "\0" in name
        or PureWindowsPath(name).drive
    ):
        return "leaves the folder that it is unpacked into"
    if any(len(part.encode()) > NAME for part in parts):
        return f"has a name of more than {NAME} bytes"
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        return "is compressed; packages store their files as they are"
    if entry.external_attr >> 16 != MODE:
        return "is not a plain file"
    return None


def _write(files: Mapping[str, Path], path: Path) -> None:
    with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system, entry.external_attr = UNIX, MODE << 16
            entry.file_size = files[name].stat().st_size
            with files[name].open("rb") as plain, archive.open(entry, "w") as packed:
                shutil.copyfileobj(plain, packed)
