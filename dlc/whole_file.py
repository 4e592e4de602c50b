"""Files that are written whole or not at all, whatever interrupts it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, or put it in the place of the one that is there; folders that are missing are made. OSError."""
    if _streams(path):
        path.write_bytes(data)
        return
    path = path.resolve()  # a link stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode if path.exists() else 0o666 & ~_umask()
    scratch = NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False)  # noqa: SIM115 - closed below
    try:
        with scratch:
            scratch.write(data)
        Path(scratch.name).chmod(mode)
        Path(scratch.name).replace(path)
    except BaseException:
        Path(scratch.name).unlink(missing_ok=True)
        raise


def probe(path: Path) -> None:
    """OSError where ``write_whole`` could not write; leaves nothing behind."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not _streams(path):
        with TemporaryFile(dir=next(p for p in path.resolve().parents if p.exists())):
            pass


def _streams(path: Path) -> bool:
    """Whether it is a pipe or a device, such as ``/dev/stdout``, which nothing can take the place of."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
