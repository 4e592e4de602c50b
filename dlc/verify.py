"""Checks an artifact where it stands: every byte, then every model in a clean process against its golden vectors."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dlc import memory_plan
from dlc.artifact import MEMORY, MODEL, Artifact, faults
from dlc.errors import ArtifactError, CapabilityError
from dlc.manifest import VariantRecord
from dlc.passes.offsets import faults as overlaps
from dlc.runtimes import __file__ as runtimes_file

REPLAY = Path(runtimes_file).with_name("replay.py")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was verified: what, whether it holds, and the evidence."""

    subject: str
    ok: bool
    detail: str


def verify(path: Path) -> list[Check]:
    """Check hashes first; models are only loaded if every byte is as it was."""
    if not path.is_dir():
        raise ArtifactError(f"{path} is not a folder; dlc verify takes the folder that dlc compile wrote")
    if damage := faults(path):
        return [Check("files", ok=False, detail=line) for line in damage]
    artifact = Artifact.load(path)
    files = sum(1 for p in path.rglob("*") if p.is_file())
    checks = [Check("files", ok=True, detail=f"{files} files, every hash as stated")]
    for variant in artifact.built:
        folder = path / variant.precision
        checks += [_plan(folder)] if (folder / MEMORY).is_file() else []
        checks += [_replay(folder, variant, default) for default in (False, True)]
    return checks


def _plan(folder: Path) -> Check:
    """Check the memory plan anew: it is of this model, and no two buffers share bytes while both are alive."""
    subject, recorded = f"{folder.name} (memory.json)", memory_plan.read(folder / MEMORY)
    with (folder / MODEL).open("rb") as file:
        same = hashlib.file_digest(file, "sha256").hexdigest() == recorded.model_sha256
    plan = recorded.plan()
    overlap = next((fault for p in recorded.plans() for fault in overlaps(p.buffers, p.offsets)), None)
    if not same or overlap:
        return Check(subject, ok=False, detail=overlap or "is the plan of another model")
    detail = f"{len(plan.buffers)} buffers in {plan.arena:,} bytes, no two share any while alive"
    return Check(subject, ok=True, detail=detail)


def _replay(folder: Path, variant: VariantRecord, default_options: bool) -> Check:  # noqa: FBT001 - a loop variable
    options = ["--default-options"] if default_options else []
    subject = f"{variant.precision} ({'default options' if default_options else 'session.json'})"
    child = subprocess.run(  # noqa: S603 - our own script, on a folder whose hashes hold
        [sys.executable, "-I", "-W", "error::DeprecationWarning", str(REPLAY), str(folder), *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if child.returncode:
        reason = child.stderr.strip().splitlines()[-1] if child.stderr.strip() else f"exit {child.returncode}"
        if "No module named 'onnxruntime'" in reason:
            raise CapabilityError("onnxruntime is not installed: pip install 'dlc[cpu]'")
        return Check(subject, ok=False, detail=f"does not run: {reason}")
    result = json.loads(child.stdout)
    worst = max(result["errors"].values(), default=0.0)
    bound = variant.golden.bound if variant.golden else 0.0
    detail = (
        f"{result['vectors']} golden vectors on ONNX Runtime {result['runtime']}, "
        f"largest relative error {worst:.2g} (bound {bound:.2g})"
    )
    return Check(subject, ok=worst <= bound and not result["torch_loaded"], detail=detail)
