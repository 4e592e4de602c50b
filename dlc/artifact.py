"""The folder that ``dlc compile`` leaves: written whole or not at all, and checked byte by byte.

<name>/
  SHA256SUMS             one line a file, readable by ``sha256sum -c``; its own bytes follow from the others
  manifest.json  report.html  summary.md  junit.xml
  <variant>/model.onnx [model.onnx.data]  session.json  memory.json  golden.safetensors
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx_ir as ir

from dlc.errors import ArtifactError
from dlc.manifest import SCHEMA, Manifest, VariantRecord
from dlc.passes.base import weight_bytes
from dlc.runtimes.session import INLINE_LIMIT, SessionConfig
from dlc.types import Array, Feeds, Outputs

MANIFEST = "manifest.json"
CHECKSUMS = "SHA256SUMS"
MODEL = "model.onnx"
SESSION = "session.json"
UNWRITABLE = (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC, errno.ENAMETOOLONG)
GOLDEN = "golden.safetensors"
MEMORY = "memory.json"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled model on disk."""

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, path: Path | str) -> Artifact:
        """Read an artifact's manifest; ArtifactError if the folder is none, or is of another schema."""
        path = Path(path)
        if not path.exists():
            raise ArtifactError(f"{path} does not exist")
        file = path / MANIFEST
        if not file.is_file():
            raise ArtifactError(f"{path} is not an artifact: it has no {MANIFEST}; make one with dlc compile")
        try:
            return cls(path, msgspec.json.decode(file.read_bytes(), type=Manifest))
        except msgspec.DecodeError as error:
            raise ArtifactError(f"{file} is damaged or not of schema {SCHEMA}: {error}") from error

    def variant(self, precision: str) -> VariantRecord:
        """Return the record of one precision."""
        for each in self.manifest.variants:
            if each.precision == precision:
                return each
        names = ", ".join(v.precision for v in self.manifest.variants)
        raise ArtifactError(f"{self.path} has no variant {precision!r}; it has {names}")

    @property
    def built(self) -> tuple[VariantRecord, ...]:
        """Variants that have a model file."""
        return tuple(v for v in self.manifest.variants if v.verdict.status != "not built")

    def session(self, precision: str) -> SessionConfig:
        """Return the session options that a variant was measured with."""
        return read_session(self.path / precision)


def read_session(folder: Path) -> SessionConfig:
    """Read ``session.json``."""
    try:
        return msgspec.json.decode((folder / SESSION).read_bytes(), type=SessionConfig)
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{folder / SESSION} cannot be read: {error}") from error


@contextlib.contextmanager
def staging(destination: Path, *, overwrite: bool, marker: str = MANIFEST) -> Iterator[Path]:
    """Yield an empty folder that becomes ``destination`` if the block succeeds, and vanishes if it does not.

    ``overwrite`` replaces a folder only if it holds the file ``marker``: what this kind of folder always has.
    """
    with _os_errors(destination, *UNWRITABLE):
        _check_destination(destination, marker, overwrite=overwrite)
        destination.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".partial", dir=destination.parent))
    try:
        folder = scratch / "new"
        folder.mkdir()
        with _os_errors(destination, errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            yield folder
            _check_destination(destination, marker, overwrite=overwrite)  # another compile may have finished meanwhile
            _swap(folder, destination, scratch / "old")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_model(folder: Path, model: ir.Model) -> None:
    """Save a variant's model, with external data if its weights are large."""
    folder.mkdir(exist_ok=True)
    ir.save(model, folder / MODEL, external_data=f"{MODEL}.data" if weight_bytes(model) > INLINE_LIMIT else None)


def write_golden(folder: Path, vectors: list[tuple[Feeds, Outputs]]) -> None:
    """Save inputs and outputs to replay; tensor names are ``<index>.input.<name>`` and ``<index>.output.<name>``."""
    from safetensors.numpy import save

    tensors = {
        f"{index}.{role}.{name}": array
        for index, (feeds, outputs) in enumerate(vectors)
        for role, arrays in (("input", feeds), ("output", outputs))
        for name, array in arrays.items()
    }
    (folder / GOLDEN).write_bytes(save(tensors))


def read_golden(folder: Path) -> list[tuple[dict[str, Array], Outputs]]:
    """Read the inputs and outputs that ``write_golden`` saved."""
    from safetensors.numpy import load_file

    vectors: list[tuple[dict[str, Array], Outputs]] = []
    for key, array in sorted(load_file(folder / GOLDEN).items(), key=lambda item: int(item[0].partition(".")[0])):
        index, role, name = key.split(".", 2)
        while len(vectors) <= int(index):
            vectors.append(({}, {}))
        vectors[int(index)][role == "output"][name] = array
    return vectors


def seal(folder: Path) -> None:
    """Write the checksums of every file; the last thing done to an artifact."""
    (folder / CHECKSUMS).write_bytes(checksums(folder))


def checksums(folder: Path) -> bytes:
    """Return what ``SHA256SUMS`` must be, from the files as they are."""
    return b"".join(_sha256(folder / name).encode() + b"  " + os.fsencode(name) + b"\n" for name in _files(folder))


def faults(folder: Path) -> list[str]:
    """Compare every byte with ``SHA256SUMS``; one line for each file changed, added, missing or made a link."""
    if links := [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink()]:
        return [f"{_printable(name)} is a symbolic link" for name in sorted(links)]
    try:
        stated = (folder / CHECKSUMS).read_bytes()
    except OSError:
        return [f"{CHECKSUMS} is missing"]
    now = checksums(folder)
    if stated == now:
        return []
    then = dict(_parse(stated))
    is_now = dict(_parse(now))
    changed = [f"{n} is changed" for n in is_now if n in then and then[n] != is_now[n]]
    added = [f"{n} is not listed in {CHECKSUMS}" for n in is_now if n not in then]
    missing = [f"{n} is missing" for n in then if n not in is_now]
    return changed + added + missing or [f"{CHECKSUMS} is changed"]


def _parse(text: bytes) -> Iterator[tuple[str, bytes]]:
    for line in text.split(b"\n"):
        digest, _, name = line.partition(b"  ")
        if line:
            yield _printable(os.fsdecode(name)), digest


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _files(folder: Path) -> list[str]:
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in found if name != CHECKSUMS)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _swap(folder: Path, destination: Path, aside: Path) -> None:
    if not destination.exists():
        folder.rename(destination)
        return
    destination.rename(aside)
    try:
        folder.rename(destination)
    except BaseException:
        aside.rename(destination)
        raise


def _check_destination(destination: Path, marker: str, *, overwrite: bool) -> None:
    if not destination.exists():
        return
    if not overwrite:
        raise ArtifactError(f"{destination} exists; choose another folder with -o, or replace it with --overwrite")
    if not (destination / marker).is_file():
        kind = "an artifact" if marker == MANIFEST else "a package"
        raise ArtifactError(f"{destination} is not {kind}, so --overwrite leaves it alone; choose another with -o")


@contextlib.contextmanager
def _os_errors(destination: Path, *codes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in codes:
            raise
        raise ArtifactError(f"cannot write {destination}: {error.strerror}; nothing was left there") from error
