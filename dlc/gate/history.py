"""Runs of the gate over commits: a JSON line each, and a picture of the trend beside them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from dlc.errors import ArtifactError
from dlc.gate.flow import Outcome
from dlc.manifest import Estimate, Record, Status

PICTURE = ".svg"
"""What the picture's name ends in, beside the history's."""
COMMITS = ("GITHUB_SHA", "CI_COMMIT_SHA", "BUILD_SOURCEVERSION", "GIT_COMMIT")
"""Where GitHub, GitLab, Azure and Jenkins say what they run on."""


class Point(Record, frozen=True, kw_only=True):
    """One variant in one run; null where it was not measured."""

    metric: Estimate | None
    latency: Estimate
    bytes: int
    peak_bytes: int


class Entry(Record, frozen=True, kw_only=True):
    """One run. ``latency`` of the points is a ratio to FP32; ``unit``: the metric's."""

    time: str
    commit: str | None
    model: str
    status: Status
    metric: str | None
    unit: str
    points: Mapping[str, Point]


def append(path: Path, outcome: Outcome) -> None:
    """Append a run, and draw the picture anew: ``history.jsonl`` has ``history.svg`` beside it."""
    from dlc.report.trend import trend
    from dlc.report.write import write_text

    entries = [*(read(path) if path.exists() else ()), entry(outcome)]
    write_text(path, "".join(msgspec.json.encode(e).decode() + "\n" for e in entries))
    write_text(path.with_suffix(PICTURE), trend(entries))


def read(path: Path) -> list[Entry]:
    """Read a history; ArtifactError names the line that is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"history {path} cannot be read: {error}; name another file") from error
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(msgspec.json.decode(line, type=Entry))
        except msgspec.DecodeError as error:
            raise ArtifactError(
                f"history {path}, line {number} is no record of a gate: {error}; remove it, or name another file"
            ) from error
    return entries


def entry(outcome: Outcome) -> Entry:
    """Sum up a run."""
    scores = [v.score for v in outcome.now.variants if v.score]
    return Entry(
        time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        commit=commit(),
        model=outcome.now.model,
        status=outcome.status,
        metric=scores[0].metric if scores else None,
        unit=scores[0].unit if scores else "",
        points={
            v.precision: Point(
                metric=v.score.value if v.score else None, latency=v.timing.ratio, bytes=v.size.bytes,
                peak_bytes=min(v.memory.peak_bytes),
            )
            for v in outcome.now.variants
        },
    )  # fmt: skip


def commit() -> str | None:
    """Return the commit that is checked out here, None outside a repository."""
    for variable in COMMITS:
        if value := os.environ.get(variable):
            return value
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)  # noqa: S607
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
