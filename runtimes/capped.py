"""Runs in an arena of a fixed size, the hard test of a claimed peak: ``python -m dlc.runtimes.capped REQUEST.json``.

ONNX Runtime's arena is the process's own here, of one chunk that is as large as it may ever be; chunks are split to the
byte. What does not fit makes the run fail. Weights are beside it: the arena reserves them one by one, and counts them
towards its ``max_mem``, which is why that is the cap and the weights (and why a lower one is none at all: ONNX Runtime
subtracts what is reserved from it without a sign).
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from dlc.runtimes import child
from dlc.runtimes.footsteps import footsteps
from dlc.runtimes.ort import import_onnxruntime, session_options
from dlc.runtimes.session import SessionConfig
from dlc.types import Bytes, Feeds

RUNS = 20
NO_ROOM = 3
"""Exit status of a process whose arena was too small."""
BESIDE = "session.use_device_allocator_for_initializers"
OWN = {"session.use_env_allocators": "1", BESIDE: "1"}


class Request(child.Request, frozen=True, kw_only=True):
    """Bytes that the arena may have, and those that weights take beside it."""

    cap: Bytes
    reserved: Bytes


def reserved(model: Path, feeds: Feeds, config: SessionConfig) -> Bytes:
    """Return the bytes that weights take in the arena of a session that reserves them."""
    entries = {**config.entries, BESIDE: "1"}
    first = footsteps(model, feeds, msgspec.structs.replace(config, entries=entries))[0]
    return first.held - first.taken


def fits(model: Path, feeds: Feeds, config: SessionConfig, cap: Bytes, weights: Bytes) -> bool:
    """Whether a model runs 20 times in an arena of ``cap`` bytes; ModelError if it fails for another reason."""
    status, _ = child.run_child(
        "dlc.runtimes.capped", Request, model, config, feeds, statuses=(0, NO_ROOM), cap=cap, reserved=weights
    )
    return status == 0


def run(request: Request) -> int:
    """Run as asked, in this process."""
    ort = import_onnxruntime()
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
    feeds = request.arrays()
    for _ in range(RUNS):
        try:
            session.run(None, feeds)
        except Exception as error:
            if "allocat" not in str(error).lower():
                raise
            return NO_ROOM
    return 0


if __name__ == "__main__":
    sys.exit(run(child.asked_of_this_process(Request)))
