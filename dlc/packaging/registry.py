"""A registry of packages: versions that never change, named by their hash, and tags that move along a log.

objects/<aa>/<sha256>              the files of packages, each once
versions/<model>/<sha256>.json     records of packages; a version is named by the hash of its record
signatures/<model>/<sha256>        of the versions that are signed
tags/<model>/<tag>/<n>.json        the moves of a tag, numbered; the last one is where it stands

Every file is created once, whole, and never replaced (``Store``). A version's record is written after its files, so a
version that is listed is complete; a move is the creation of the next number, so of two writers one fails and says so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dlc.artifact import staging
from dlc.errors import ArtifactError, UserError
from dlc.manifest import Record
from dlc.packaging import archive, record
from dlc.packaging.bundle import integrity
from dlc.packaging.record import RECORD, SIGNATURE, Package
from dlc.packaging.store import Store
from dlc.types import Bytes

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
HASH = re.compile(r"[0-9a-f]{64}")
SHORT = 12


class Move(Record, frozen=True, kw_only=True):
    """One entry of a tag's log. ``back``: the number of the entry that a rollback returns to, null at the first."""

    version: str
    back: int | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """A package in the registry."""

    model: str
    digest: str
    package: Package
    tags: tuple[str, ...]

    @property
    def bytes(self) -> Bytes:
        """Size of its files."""
        return sum(f.bytes for f in self.package.files.values())


class Registry:
    """Packages in a store."""

    def __init__(self, address: str) -> None:
        self.store = Store(address)

    def push(self, path: Path) -> tuple[str, str]:
        """Add a package folder or a bundle; return its model and version. Pushing it again changes nothing."""
        with archive.opened(path) as folder:
            if bad := [c.detail for c in integrity(folder, None) if not c.ok]:
                raise ArtifactError(f"{path} is not pushed: {bad[0]}")
            return self._push(folder)

    def _push(self, folder: Path) -> tuple[str, str]:
        package, text = record.read(folder), (folder / RECORD).read_bytes()
        model, digest = _checked(package.model), hashlib.sha256(text).hexdigest()
        _folder(model, package)  # what cannot be pulled is not pushed
        for name, file in package.files.items():
            self._add_object((folder / name).read_bytes(), file)
        if (folder / SIGNATURE).is_file():
            self._add(_signature(model, digest), (folder / SIGNATURE).read_bytes())
        self._add(f"versions/{model}/{digest}.json", text)
        return model, digest

    def _add(self, name: str, data: bytes) -> None:
        if not self.store.create(name, data) and self.store.read(name) != data:
            raise ArtifactError(f"{self.store.address}/{name} holds other bytes: remove it, and push again")

    def _add_object(self, data: bytes, file: record.File) -> None:
        name = _object(file.sha256)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise ArtifactError(f"a file of hash {file.sha256} changed while it was pushed")
        if not self.store.create(name, data) and self.store.size(name) != file.bytes:
            raise ArtifactError(f"{self.store.address}/{name} is damaged: remove it, and push again")

    def models(self) -> list[str]:
        """Return the models that have a version."""
        return self.store.names("versions")

    def versions(self, model: str) -> list[Version]:
        """Return all versions of a model, by their hash."""
        at: dict[str, list[str]] = {}
        for tag in self.tags(model):
            at.setdefault(self.move(model, tag)[1].version, []).append(tag)
        digests = [name.removesuffix(".json") for name in self.store.names(f"versions/{model}")]
        return [Version(model, d, self.package(model, d), tuple(at.get(d, ()))) for d in digests]

    def package(self, model: str, digest: str) -> Package:
        """Return the record of a version; ArtifactError if it is missing or damaged."""
        return record.decode(self._record(model, digest), f"{self.store.address}, {model} {digest[:SHORT]}")

    def _record(self, model: str, digest: str) -> bytes:
        try:
            text = self.store.read(f"versions/{model}/{digest}.json")
        except FileNotFoundError as error:
            raise ArtifactError(f"{self.store.address} has no version {digest[:SHORT]} of {model}") from error
        if hashlib.sha256(text).hexdigest() != digest:
            raise ArtifactError(f"{self.store.address}: version {digest[:SHORT]} of {model} is damaged")
        return text

    def resolve(self, model: str, reference: str) -> str:
        """Return the version that a tag, a hash or the start of one names; UserError if none or several fit."""
        if reference in self.tags(model):
            return self.move(model, reference)[1].version
        digests = [name.removesuffix(".json") for name in self.store.names(f"versions/{model}")]
        if not digests:
            known = ", ".join(self.models()) or "none"
            raise UserError(f"{self.store.address} has no model {model!r}; it has {known}")
        fitting = [d for d in digests if d.startswith(reference)]
        if len(fitting) == 1:
            return fitting[0]
        found = "several versions start so" if fitting else f"its tags are {', '.join(self.tags(model)) or 'none'}"
        raise UserError(f"{model} has no one version {reference!r}: {found}; see dlc registry list")

    def tags(self, model: str) -> list[str]:
        """Return the tags of a model."""
        return self.store.names(f"tags/{model}")

    def move(self, model: str, tag: str, number: int | None = None) -> tuple[int, Move]:
        """Return the last move of a tag, or one of a number, and that number; UserError if the tag never moved.

        ArtifactError if the move is missing or damaged.
        """
        folder = f"tags/{model}/{tag}"
        if number is None:
            names = self.store.names(folder)
            if not names:
                raise UserError(f"{model} has no tag {tag!r}; it has {', '.join(self.tags(model)) or 'none'}")
            number = _number(names[-1])
        name = f"{folder}/{number:08}.json"
        try:
            return number, msgspec.json.decode(self.store.read(name), type=Move)
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ArtifactError(f"{self.store.address}/{name} is damaged: {error}") from error

    def tag(self, model: str, reference: str, tag: str) -> str:
        """Move a tag to a version, and return it; UserError if another writer moved it at the same time."""
        version = self.resolve(model, reference)
        names = self.store.names(f"tags/{model}/{_checked(tag)}")
        last = _number(names[-1]) if names else 0
        self._append(model, tag, last, Move(version=version, back=last or None))
        return version

    def rollback(self, model: str, tag: str) -> str:
        """Move a tag back to where it stood before its last move, again and again to its first; return the version."""
        last, now = self.move(model, tag)
        if now.back is None:
            raise UserError(f"tag {tag!r} of {model} never stood elsewhere, so it cannot be rolled back")
        _, before = self.move(model, tag, now.back)
        self._append(model, tag, last, Move(version=before.version, back=before.back))
        return before.version

    def _append(self, model: str, tag: str, last: int, move: Move) -> None:
        if not self.store.create(f"tags/{model}/{tag}/{last + 1:08}.json", msgspec.json.encode(move)):
            _, now = self.move(model, tag)
            raise UserError(
                f"tag {tag!r} of {model} was moved to {now.version[:SHORT]} by another writer meanwhile: "
                "look, and try again"
            )

    def pull(self, model: str, reference: str, out: Path, *, overwrite: bool = False) -> Path:
        """Write a version as a package folder into ``out``; ArtifactError if a file of it is missing or damaged."""
        digest = self.resolve(model, reference)
        package = self.package(model, digest)
        place = out / _folder(model, package)
        with staging(place, overwrite=overwrite, marker=RECORD) as folder:
            for name, file in package.files.items():
                target = folder / name
                if not target.resolve().is_relative_to(folder.resolve()):
                    raise ArtifactError(f"version {digest[:SHORT]} of {model} names {name!r}, which leaves the folder")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(self._object(file.sha256))
            signature = _signature(model, digest)
            if self.store.size(signature) is not None:
                (folder / SIGNATURE).write_bytes(self.store.read(signature))
            (folder / RECORD).write_bytes(self._record(model, digest))
        return place

    def _object(self, digest: str) -> bytes:
        try:
            data = self.store.read(_object(digest))
        except FileNotFoundError as error:
            raise ArtifactError(f"{self.store.address}/{_object(digest)} is missing: push the package again") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise ArtifactError(f"{self.store.address}/{_object(digest)} is damaged: remove it, and push again")
        return data

    def faults(self) -> Iterator[str]:
        """Read everything that versions and tags lead to; yield a line for each thing that is missing or damaged."""
        for model in sorted({*self.models(), *self.store.names("tags")}):
            for name in self.store.names(f"versions/{model}"):
                yield from self._version_faults(model, name.removesuffix(".json"))
            for tag in self.tags(model):
                for name in self.store.names(f"tags/{model}/{tag}"):
                    yield from self._move_faults(model, tag, name)

    def _version_faults(self, model: str, digest: str) -> Iterator[str]:
        try:
            package = self.package(model, digest)
        except ArtifactError as error:
            yield str(error)
            return
        if (package.signer is not None) != (self.store.size(_signature(model, digest)) is not None):
            found = "its signature is missing: push the package again" if package.signer else "it has no signer"
            yield f"{model} {digest[:SHORT]}: {self.store.address}/{_signature(model, digest)}: {found}"
        for file in package.files.values():
            try:
                self._object(file.sha256)
            except ArtifactError as error:
                yield f"{model} {digest[:SHORT]}: {error}"

    def _move_faults(self, model: str, tag: str, name: str) -> Iterator[str]:
        try:
            _, move = self.move(model, tag, _number(name))
        except ArtifactError as error:
            yield f"tag {tag!r} of {model}: {error}"
            return
        if self.store.size(f"versions/{model}/{move.version}.json") is None:
            yield f"tag {tag!r} of {model}: move {name} leads to {move.version[:SHORT]}, which is no version"


def diff(a: Package, b: Package) -> list[tuple[str, str, str]]:
    """Return what differs between two versions: the part, then what it is in each; empty for equal ones."""
    parts = ("form", "variant", "dlc", "runtime", "interface", "tolerance", "chain", "notes", "signer")
    rows: list[tuple[str, str, str]] = []
    if a.verdict.status != b.verdict.status:
        rows.append(("verdict", a.verdict.status, b.verdict.status))
    rows += [(p, _text(getattr(a, p)), _text(getattr(b, p))) for p in parts if getattr(a, p) != getattr(b, p)]
    for name in sorted({*a.files, *b.files}):
        if a.files.get(name) != b.files.get(name):
            rows.append((name, _file_text(a.files.get(name)), _file_text(b.files.get(name))))
    return rows


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _file_text(file: record.File | None) -> str:
    return f"{file.bytes:,} bytes, {file.sha256[:SHORT]}" if file else "–"


def _object(digest: str) -> str:
    if HASH.fullmatch(digest) is None:
        raise ArtifactError(f"{digest!r} is no SHA-256")
    return f"objects/{digest[:2]}/{digest}"


def _signature(model: str, digest: str) -> str:
    return f"signatures/{model}/{digest}"


def _number(name: str) -> int:
    try:
        return int(name.removesuffix(".json"))
    except ValueError as error:
        raise ArtifactError(f"{name!r} is no move of a tag: remove it") from error


def _folder(model: str, package: Package) -> str:
    return f"{model}-{_checked(package.variant)}-{_checked(package.form)}"


def _checked(name: str) -> str:
    if NAME.fullmatch(name) is None:
        raise UserError(f"{name!r} is no name for a registry: take letters, digits, dots, dashes and underscores")
    return name
