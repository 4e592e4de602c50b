"""``dlc-package.json``: what a package is, what it needs, and the hash of every file in it. Schema ``dlc-package/1``.

Nothing in it depends on when, where or by whom it was made, so one artifact gives one package, byte for byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from dlc.errors import ArtifactError
from dlc.manifest import GoldenTolerance, Interfaces, Record, VerdictRecord
from dlc.pretty import pretty_json
from dlc.types import Bytes

RECORD = "dlc-package.json"
SIGNATURE = "dlc-package.sig"
UNLISTED = (RECORD, SIGNATURE)
"""The record cannot hold its own hash, nor that of the signature over it."""


class File(Record, frozen=True, kw_only=True):
    """One file of the package."""

    sha256: str
    bytes: Bytes


class Runtime(Record, frozen=True, kw_only=True):
    """What runs the package, from which registry (``pypi``, ``npm``), and the version it was packaged for."""

    name: str
    version: str
    registry: Literal["pypi", "npm"]


class Link(Record, frozen=True, kw_only=True):
    """One choice of the fallback chain: a variant on a provider, and when it may be taken.

    ``isa``: instruction sets of which the processor must have one, empty if any processor will do.
    """

    variant: str
    folder: str
    provider: str
    isa: tuple[str, ...] = ()
    why: str = ""


class Package(Record, frozen=True, kw_only=True):
    """The whole record; ``chain`` is tried from the first to the last, ``files`` are in the order of their names.

    ``signer``: SHA-256 of the public key that the signature beside it was made for; null: not signed.
    """

    schema: Literal["dlc-package/1"] = "dlc-package/1"
    form: str
    model: str
    variant: str
    verdict: VerdictRecord
    artifact_sha256: str
    dlc: str
    runtime: Runtime
    interface: Interfaces
    dims: Mapping[str, tuple[int, int, int]]
    tolerance: GoldenTolerance
    chain: tuple[Link, ...]
    notes: tuple[str, ...] = ()
    signer: str | None = None
    files: Mapping[str, File] = {}


def list_files(folder: Path) -> dict[str, File]:
    """Hash every file below a folder but the record and its signature."""
    paths = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: _file(paths[name]) for name in sorted(paths) if name not in UNLISTED}


def seal(folder: Path, package: Package) -> Package:
    """Write the record, with the hashes of the files as they are; the last thing done to a package."""
    sealed = msgspec.structs.replace(package, files=list_files(folder))
    (folder / RECORD).write_bytes(encode(sealed))
    return sealed


def encode(package: Package) -> bytes:
    """Return the text of the record."""
    return pretty_json(package)


def decode(text: bytes, where: object) -> Package:
    """Read a record; ArtifactError if it is damaged or of another schema."""
    try:
        return msgspec.json.decode(text, type=Package)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{where}: {RECORD} is damaged or not of schema dlc-package/1: {error}") from error


def read(folder: Path) -> Package:
    """Read the record of a package folder; ArtifactError if it is none."""
    try:
        return decode((folder / RECORD).read_bytes(), folder)
    except OSError as error:
        raise ArtifactError(f"{folder} is not a package: it has no {RECORD}; make one with dlc package") from error


def faults(stated: Mapping[str, File], found: Mapping[str, File]) -> list[str]:
    """Compare files with what the record says; one line for each file changed, added or missing."""
    changed = [f"{n} is changed" for n in stated if n in found and found[n] != stated[n]]
    added = [f"{n} is not listed in {RECORD}" for n in found if n not in stated]
    missing = [f"{n} is missing" for n in stated if n not in found]
    return changed + added + missing


def total(files: Iterable[Path]) -> Bytes:
    """Return the size of files on disk."""
    return sum(p.stat().st_size for p in files)


def _file(path: Path) -> File:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return File(sha256=digest, bytes=path.stat().st_size)
