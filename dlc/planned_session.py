"""Open what ``dlc plan -o`` wrote: a session whose runs lie where the plan says."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dlc import memory_plan
from dlc.artifact import MEMORY, read_session
from dlc.errors import ArtifactError
from dlc.runtimes.ort import runtime_version
from dlc.runtimes.planned import SLABS, PlannedRunner


def open_planned(folder: Path, *, slabs: int = SLABS) -> PlannedRunner:
    """Return a runner for a folder of planned files, at most ``slabs`` runs of it at planned offsets at one time.

    ArtifactError if the plan is damaged, or of another model or ONNX Runtime. Runs with inputs of other shapes than
    the plan's are plain runs of the same graph; ``tier`` and ``counts`` of the runner say what happened.
    """
    recorded = memory_plan.read(folder / MEMORY)
    file = folder / recorded.file
    try:
        with file.open("rb") as model:
            digest = hashlib.file_digest(model, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"{file}, which the memory plan is for, cannot be read: {error.strerror}") from error
    recorded.check(digest, recorded.shapes, runtime_version())
    plans = [recorded.plan()] if recorded.allocations else []
    return PlannedRunner(file, plans, read_session(folder), slabs=slabs)
