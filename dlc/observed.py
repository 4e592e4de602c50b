"""What a packaged runner observed where ``DLC_STATISTICS`` named a file: counts, which ``dlc data check`` takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dlc import drift
from dlc.artifact import Artifact
from dlc.drift import Statistics
from dlc.errors import ArtifactError


def is_log(file: Path) -> bool:
    """Whether this is meant to be a file of statistics, and neither arrays nor a recipe: it is JSON."""
    if file.suffix == ".json":
        return True
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(1) == b"{"


def read(file: Path, artifact: Artifact, before: Statistics) -> Statistics:
    """Read what was observed of a variant of an artifact; ArtifactError if it cannot be held against ``before``."""
    log = drift.load(file)
    if log.model != artifact.manifest.name:
        raise ArtifactError(f"{file} is of the model {log.model!r}, and {artifact.path} is {artifact.manifest.name!r}")
    if log.variant not in (built := [each.precision for each in artifact.built]):
        raise ArtifactError(f"{file} is of the variant {log.variant!r}; {artifact.path} has {', '.join(built)}")
    if not log.examples:
        raise ArtifactError(f"{file} holds no run: the runner had not been called when it was written")
    if not (both := log.values.keys() & before.values.keys()):
        raise ArtifactError(f"{file} and {artifact.path / drift.STATISTICS} have no value in common")
    if others := sorted(name for name in both if log.values[name].edges != before.values[name].edges):
        raise ArtifactError(
            f"{file} counts {others[0]!r} in other bins than {artifact.path / drift.STATISTICS} does: hold it against "
            f"the artifact that the package was made of, or package this one and observe anew"
        )
    return log


def notes(log: Statistics, before: Statistics) -> Iterator[str]:
    """Say what the numbers do not."""
    if log.variant != before.variant:
        yield f"outputs are those of {log.variant}, calibration's those of {before.variant}: that differs, too"
    for name, each in log.values.items():
        if each.non_finite:
            yield f"{each.non_finite} of {sum(each.counts)} elements of {name!r} are NaN or infinite: they are outside"
        if name not in before.values:
            yield f"{name!r} was not looked at: calibration kept no statistics of it"
