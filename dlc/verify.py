"""Checks an artifact where it stands: every byte, then every model in a clean process against its golden vectors."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dlc.artifact import Artifact, faults
from dlc.errors import ArtifactError, CapabilityError
from dlc.manifest import VariantRecord
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
    return checks + [_replay(path / v.precision, v, default) for v in artifact.built for default in (False, True)]


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
