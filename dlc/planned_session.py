"""Open what ``dlc plan -o`` wrote: a session whose runs lie where the plan says."""

from __future__ import annotations

from pathlib import Path

from dlc.artifact import read_session
from dlc.planned_files import read
from dlc.runtimes.planned import SLABS, PlannedRunner


def open_planned(folder: Path, *, slabs: int = SLABS) -> PlannedRunner:
    """Return a runner for a folder of planned files, at most ``slabs`` runs of it at planned offsets at one time.

    ArtifactError if the plan is damaged, or of another model or ONNX Runtime. The plan of a run is chosen by the shapes
    of its inputs; one that is larger in some dimension than every plan is a plain run of the same graph. ``tier`` and
    ``counts`` of the runner say what happened.
    """
    recorded = read(folder)
    plans = [plan for plan in recorded.plans() if plan.allocations]
    return PlannedRunner(folder / recorded.file, plans, read_session(folder), slabs=slabs)
