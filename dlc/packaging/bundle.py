"""Bundles: one reproducible zip of a package, signed if a key is given, and what ``dlc verify`` makes of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from dlc.errors import ArtifactError
from dlc.packaging import archive, record, signing
from dlc.packaging.compose import Packaged, compose, destination, form_called
from dlc.packaging.form import Proof
from dlc.packaging.record import RECORD, SIGNATURE, Package
from dlc.packaging.source import Source
from dlc.verify import Check

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LEFT = "not run: it is the package's own program; --key shows who made it, --trust runs it all the same"


def bundle(
    sources: Sequence[Source], form_name: str, out: Path, *, key: Path | None = None, check: bool = True,
    overwrite: bool = False, licence: Path | None = None,
) -> Packaged:  # fmt: skip
    """Package, prove, sign and zip; nothing is left if a check fails."""
    private = signing.load_private(key) if key else None
    place = destination(out, sources[0], form_name)
    path = place.with_name(f"{place.name}.zip")  # a model's name may hold dots
    if path.exists() and not (overwrite and is_bundle(path)):
        raise ArtifactError(f"{path} exists; choose another folder with -o, or replace it with --overwrite")
    with tempfile.TemporaryDirectory(prefix="dlc-") as scratch:
        made = compose(sources, form_name, Path(scratch), check=check, licence=licence)
        if made.path is None:
            return made
        if private is not None:
            signer = signing.fingerprint(private.public_key())
            package = record.seal(made.path, msgspec.structs.replace(made.package, signer=signer))
            (made.path / SIGNATURE).write_bytes(signing.sign(private, record.encode(package)))
            made = replace(made, package=package)
        with _written(path) as partial:
            archive.pack(Path(scratch) / place.name, partial)
    return replace(made, path=path, bytes=path.stat().st_size)


def is_bundle(path: Path) -> bool:
    """Whether a file is a zip with a package's record in it."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as file:
            return RECORD in file.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def verify(path: Path, key: Path | None, *, trust: bool = False) -> list[Check]:
    """Check a bundle, or a package folder: every byte, the signature, and then the golden vectors in the real runtime.

    The replay runs the package's own program, so it is left out unless the owner of ``key`` signed it, or ``trust``.
    """
    public = signing.load_public(key) if key else None
    try:
        with archive.opened(path) as folder:
            return list(_checks(folder, public, trust=trust or public is not None))
    except ArtifactError as error:
        if not path.is_file():
            raise
        return [Check("archive", ok=False, detail=str(error))]


def _checks(folder: Path, public: Ed25519PublicKey | None, *, trust: bool) -> Iterator[Check]:
    checks = integrity(folder, public)
    yield from checks
    if all(c.ok for c in checks):
        yield from _replay(folder) if trust else [Check("replay", ok=True, detail=LEFT)]


def _replay(folder: Path) -> list[Check]:
    form = form_called(record.read(folder).form)
    form.require()
    return [_check(proof) for proof in form.check(folder.resolve())]


def integrity(folder: Path, public: Ed25519PublicKey | None) -> list[Check]:
    """Compare every file with the record, and the record with its signature."""
    if links := sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink()):
        return [Check("files", ok=False, detail=f"{name} is a symbolic link") for name in links]
    package, text = record.read(folder), (folder / RECORD).read_bytes()
    found = record.list_files(folder)
    if damage := record.faults(package.files, found):
        return [Check("files", ok=False, detail=line) for line in damage]
    files = Check("files", ok=True, detail=f"{len(found)} files, every hash as stated")
    return [files, _signature(folder / SIGNATURE, package, text, public)]


def _signature(path: Path, package: Package, text: bytes, public: Ed25519PublicKey | None) -> Check:
    subject = "signature"
    if text != record.encode(package):
        return Check(subject, ok=False, detail=f"{RECORD} is not written as dlc writes it")
    if package.signer is None or not path.is_file():
        signed = "its signature is missing" if package.signer else f"{SIGNATURE} belongs to no signer"
        odd = path.is_file() or package.signer is not None
        return Check(subject, ok=not odd and public is None, detail=signed if odd else "not signed")
    if public is None:
        return Check(subject, ok=True, detail=f"of key {package.signer[:16]}…, not checked: give the key with --key")
    holds = package.signer == signing.fingerprint(public) and signing.is_signed(public, path.read_bytes(), text)
    made = "Ed25519, by the owner of the key" if holds else "not by the owner of this key"
    return Check(subject, ok=holds, detail=made)


def _check(proof: Proof) -> Check:
    if proof.answer is None:
        return Check(proof.subject, ok=proof.ok, detail=proof.detail)
    answer = proof.answer
    detail = f"{answer.vectors} golden vectors, largest relative error {answer.worst:.2g} (bound {answer.bound:.2g})"
    return Check(f"{proof.subject}, {answer.runtime}", ok=proof.ok, detail=proof.detail or detail)


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """Yield a name beside ``path``, which is put in its place if the block succeeds, and removed if it does not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror}; nothing was left there") from error
