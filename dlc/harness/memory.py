"""Memory of a model where it runs, and its size on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from dlc.errors import CapabilityError, ModelError
from dlc.manifest import Size
from dlc.runtimes import __file__ as runtimes_file
from dlc.runtimes.session import SessionConfig
from dlc.types import Bytes, Feeds

CHILD = Path(runtimes_file).with_name("peak_rss.py")
CHUNK: Bytes = 1 << 20
COMPRESSION = 6


@dataclass(frozen=True, slots=True)
class Rss:
    """Peak resident set of a process that loads and runs a model, and what the bare runtime took before.

    ``load_ms``: the cold start, a session made where none was before; ``first_ms``: the first call of it.
    """

    peak: Bytes
    runtime: Bytes
    load_ms: float = 0.0
    first_ms: float = 0.0


def peak_rss(model: Path, config: SessionConfig, feeds: Feeds, runs: int = 3) -> Rss:
    """Measure in a fresh process with onnxruntime and numpy alone; ModelError or CapabilityError if that fails."""
    with tempfile.TemporaryDirectory(prefix="dlc-") as scratch:
        arrays, request = Path(scratch) / "feeds.npz", Path(scratch) / "request.json"
        np.savez(arrays, *feeds.values())
        asked = {
            "model": str(model.resolve()),
            "inputs": list(feeds),
            "feeds": str(arrays),
            "runs": runs,
            "config": config,
        }
        request.write_bytes(msgspec.json.encode(asked))
        child = subprocess.run(  # noqa: S603 - our own script
            [sys.executable, "-I", str(CHILD), str(request)], capture_output=True, text=True, check=False
        )
    if child.returncode:
        raise _error(model, child.returncode, child.stderr)
    return Rss(**json.loads(child.stdout))


def sizes(files: Iterable[Path], baseline: Size | None = None) -> Size:
    """Add up files as they are and compressed; the ratio is against ``baseline``, 1 without one."""
    plain = packed = 0
    for path in files:
        compressor = zlib.compressobj(COMPRESSION)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                plain += len(chunk)
                packed += len(compressor.compress(chunk))
        packed += len(compressor.flush())
    return Size(bytes=plain, compressed_bytes=packed, ratio=plain / baseline.bytes if baseline else 1.0)


def _error(model: Path, status: int, stderr: str) -> ModelError | CapabilityError:
    lines = stderr.strip().splitlines()
    reason = lines[-1] if lines else f"signal {-status}" if status < 0 else f"exit {status}"
    if "No module named 'onnxruntime'" in reason:
        return CapabilityError("onnxruntime is not installed: pip install 'dlc[cpu]'")
    if "No module named 'resource'" in reason:
        return CapabilityError(f"the peak memory of a process cannot be read on {os.name}")
    return ModelError(f"{model} failed in a process of its own: {reason}")
