"""A planned model on disk: the graph in its planned order, the options that follow it, the plan, and a C header."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from dlc import memory_plan
from dlc.artifact import MEMORY, SESSION
from dlc.errors import ArtifactError
from dlc.memory_header import header
from dlc.memory_plan import MemoryPlan
from dlc.passes.base import weight_bytes
from dlc.planning import Prepared
from dlc.pretty import pretty_json
from dlc.runtimes.ort import runtime_version
from dlc.runtimes.session import INLINE_LIMIT

FILE = "planned.onnx"
HEADER = "memory.h"
DATA = f"{FILE}.data"


def write(folder: Path, prepared: Prepared, *, mapped: bool = False, overwrite: bool = False) -> MemoryPlan:
    """Write the four files; ArtifactError if the folder holds others. ``mapped``: weights in a file of their own."""
    if folder.exists() and (not overwrite or not folder.is_dir() or not (folder / FILE).is_file()):
        what = "replace it with --overwrite" if (folder / FILE).is_file() else "it holds no planned model"
        raise ArtifactError(f"{folder} exists; choose another folder with -o: {what}")
    folder.mkdir(parents=True, exist_ok=True)
    apart = mapped or weight_bytes(prepared.model) > INLINE_LIMIT
    ir.save(prepared.model, folder / FILE, external_data=DATA if apart else None)
    recorded = memory_plan.encode(prepared.plan, _sha256(folder / FILE), FILE, prepared.others)
    (folder / MEMORY).write_bytes(recorded)
    (folder / SESSION).write_bytes(pretty_json(prepared.config))
    written = memory_plan.read(folder / MEMORY)
    (folder / HEADER).write_text(header(written, str(prepared.model.graph.name or "plan")), encoding="ascii")
    return written


def read(folder: Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> MemoryPlan:
    """Read the plan of a planned model; ArtifactError if it is of another file, other input shapes, another runtime.

    ``shapes``: of the inputs that it shall be for; None: whichever it is for.
    """
    recorded = memory_plan.read(folder / MEMORY)
    if not (folder / recorded.file).is_file():
        raise ArtifactError(f"{folder / recorded.file} is missing: {folder / MEMORY} is the plan of that file")
    recorded.check(_sha256(folder / recorded.file), recorded.shapes if shapes is None else shapes, runtime_version())
    return recorded


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
