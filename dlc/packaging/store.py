"""A folder or an object store, through fsspec, of which each file is written once and appears whole or not at all.

Object stores show an object when its upload ends, and refuse an upload on the condition that its name is free: S3 by
``If-None-Match: *`` (s3fs), Google Cloud Storage by ``ifGenerationMatch=0`` (gcsfs). In a folder a file is written
elsewhere, flushed to the disk, and then linked to its name, which fails if the name exists.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from dlc.errors import ArtifactError, CapabilityError, Unsupported

SCRATCH = "tmp"
LOCAL = ("file", "local")
CONDITIONAL = ("s3", "s3a", "gs", "gcs", "memory")
"""Of what fsspec knows, those that refuse to replace a file; ``memory``, for tests, within one thread."""


class Store:
    """Files below one address: a folder, ``s3://bucket/prefix`` or ``gs://bucket/prefix``.

    ArtifactError if the address is of no place, Unsupported of one that replaces files, CapabilityError of one whose
    package is missing.
    """

    def __init__(self, address: str) -> None:
        try:
            from fsspec import available_protocols
            from fsspec.core import url_to_fs
            from fsspec.utils import get_protocol
        except ImportError as error:
            raise CapabilityError("a registry needs the package fsspec: pip install 'dlc[package]'") from error
        protocol = get_protocol(address)
        if protocol not in available_protocols():
            raise ArtifactError(f"{address} is no place that fsspec knows: there is no {protocol!r}")
        if protocol not in (*LOCAL, *CONDITIONAL):
            raise Unsupported(
                f"{address}: {protocol} replaces files that exist, so one writer could undo another's work: "
                "keep the registry in a folder, or in s3:// or gs://"
            )
        try:
            self._files, self._root = url_to_fs(address, use_listings_cache=False)  # others write meanwhile
        except ImportError as error:
            raise CapabilityError(f"{address}: {error}") from error
        self.address = address
        self._local = protocol in LOCAL

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that must not exist; False if it does, and then nothing is changed."""
        try:
            if self._local:
                return self._link(name, data)
            self._files.pipe_file(self._path(name), data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            raise ArtifactError(f"{self.address}: {name} cannot be written: {error}") from error
        return True

    def read(self, name: str) -> bytes:
        """Return a file; FileNotFoundError if there is none."""
        return bytes(self._files.cat_file(self._path(name)))

    def size(self, name: str) -> int | None:
        """Return a file's length; None if there is none."""
        try:
            return int(self._files.info(self._path(name))["size"])
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        """Return the names directly below a folder, sorted; none if it does not exist."""
        self._files.invalidate_cache()
        try:
            found = self._files.ls(self._path(folder), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in found)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _link(self, name: str, data: bytes) -> bool:
        final, scratch = Path(self._path(name)), Path(self._path(SCRATCH)) / uuid.uuid4().hex
        if final.exists():
            return False
        for folder in (scratch.parent, final.parent):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            with scratch.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(scratch, final)
        finally:
            scratch.unlink(missing_ok=True)
        return True
