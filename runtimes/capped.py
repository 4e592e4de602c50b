"""Runs in an arena of a fixed size, the hard test of a claimed peak: ``python -m dlc.runtimes.capped REQUEST.json``.

ONNX Runtime's arena is the process's own here, of one chunk that is as large as it may ever be; chunks are split to the
byte. What does not fit makes the run fail. Weights are beside it: the arena reserves them one by one, and counts them
towards its ``max_mem``, which is why that is the cap and the weights (and why a lower one is none at all: ONNX Runtime
subtracts what is reserved from it without a sign).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from dlc.errors import ModelError
from dlc.runtimes.footsteps import footsteps
from dlc.runtimes.ort import import_onnxruntime, session_options
from dlc.runtimes.session import SessionConfig
from dlc.types import Bytes, Feeds

RUNS = 20
UNIT: Bytes = 256
"""The arena hands out multiples of this."""
NO_ROOM = 3
"""Exit status of a process whose arena was too small."""
BESIDE = "session.use_device_allocator_for_initializers"
OWN = {"session.use_env_allocators": "1", BESIDE: "1"}


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to run, the bytes that the arena may have, and those that weights take beside it."""

    model: str
    config: SessionConfig
    feeds: str
    inputs: tuple[str, ...]
    cap: Bytes
    reserved: Bytes


def reserved(model: Path, feeds: Feeds, config: SessionConfig) -> Bytes:
    """Return the bytes that weights take in the arena of a session that reserves them."""
    entries = {**config.entries, BESIDE: "1"}
    first = footsteps(model, feeds, msgspec.structs.replace(config, entries=entries))[0]
    return first.held - first.taken


def fits(model: Path, feeds: Feeds, config: SessionConfig, cap: Bytes, weights: Bytes) -> bool:
    """Whether a model runs 20 times in an arena of ``cap`` bytes; ModelError if it fails for another reason."""
    with tempfile.TemporaryDirectory(prefix="dlc-") as scratch:
        arrays, asked = Path(scratch) / "feeds.npz", Path(scratch) / "request.json"
        np.savez(arrays, *feeds.values())
        request = Request(
            model=str(model.resolve()), config=config, feeds=str(arrays), inputs=tuple(feeds), cap=cap, reserved=weights
        )  # fmt: skip
        asked.write_bytes(msgspec.json.encode(request))
        child = subprocess.run(  # noqa: S603 - our own module
            [sys.executable, "-m", "dlc.runtimes.capped", str(asked)], capture_output=True, check=False
        )
    if child.returncode not in (0, NO_ROOM):
        lines = child.stderr.decode().strip().splitlines()
        raise ModelError(f"{model} failed in a process of its own: {lines[-1] if lines else child.returncode}")
    return child.returncode == 0


def least_arena(model: Path, feeds: Feeds, config: SessionConfig, bound: Bytes, precision: float = 0.01) -> Bytes:
    """Return the bytes of the smallest arena that runs go through, to a share of it; ``bound``: no arena is smaller."""
    weights = reserved(model, feeds, config)
    low, high = bound, max(UNIT, -(-bound // UNIT) * UNIT)
    while not fits(model, feeds, config, high, weights):
        low, high = high, -(-int(high * 1.25) // UNIT) * UNIT
    while high - low > max(UNIT, precision * high):
        middle = -(-(low + high) // 2 // UNIT) * UNIT
        low, high = (low, middle) if fits(model, feeds, config, middle, weights) else (middle, high)
    return high


def run(request: Request) -> int:
    """Run as asked, in this process."""
    ort = import_onnxruntime()
    with np.load(request.feeds) as file:
        feeds = {name: file[f"arr_{i}"] for i, name in enumerate(request.inputs)}
    where = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    arena = {
        "max_mem": request.cap + request.reserved, "arena_extend_strategy": 0, "initial_chunk_size_bytes": request.cap,
        "max_dead_bytes_per_chunk": 1,
    }  # fmt: skip
    ort.create_and_register_allocator(where, ort.OrtArenaCfg(arena))
    options = session_options(ort, request.config)
    for key, value in OWN.items():
        options.add_session_config_entry(key, value)
    session = ort.InferenceSession(request.model, options, providers=["CPUExecutionProvider"])
    for _ in range(RUNS):
        try:
            session.run(None, feeds)
        except Exception as error:
            if "allocat" not in str(error).lower():
                raise
            return NO_ROOM
    return 0


if __name__ == "__main__":
    sys.exit(run(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Request)))
