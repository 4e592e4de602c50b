"""The whole gate on one screen: measure, judge, blame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from dlc.artifact import MANIFEST, Artifact
from dlc.gate import baseline
from dlc.gate.blame import Blame, blame
from dlc.gate.changes import Change, changes
from dlc.gate.judging import confirmed, judge, pool, slow_or_unsure
from dlc.gate.limits import Limits
from dlc.gate.lines import Line, exit_code, status
from dlc.gate.measuring import observe, retimed
from dlc.gate.observation import Observation
from dlc.gate.timing import How
from dlc.manifest import Interfaces, Status
from dlc.progress import Progress, Silent
from dlc.recipe import Recipe

if TYPE_CHECKING:
    from dlc.gate.undoing import Tried

SILENT = Silent()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of the gate came to. ``tried``: what was undone to find what is to blame (``dlc.gate.undoing``)."""

    lines: list[Line]
    blames: list[Blame]
    changes: list[Change]
    now: Observation
    before: Observation | None
    written: Path | None = None
    tried: Sequence[Tried] = ()

    @property
    def status(self) -> Status:
        """The worst of the lines."""
        return status(self.lines)

    @property
    def exit_code(self) -> int:
        """Return 0, 1 where a gate fails, 5 where one is inconclusive."""
        return exit_code(self.lines)

    def blame_of(self) -> Mapping[str, Blame]:
        """Return the blame of each gate that fails, by its name."""
        return {each.gate: each for each in self.blames}


def gate(
    artifact: Artifact, recipe: Recipe | None, limits: Limits, how: How, *, against: Path | None = None,
    update: bool = False, progress: Progress = SILENT,
) -> Outcome:  # fmt: skip
    """Measure an artifact, judge it by its recipe's gates and against a baseline: a file, or an earlier artifact.

    ``update``: write the baseline instead of comparing with it; it is written only if nothing fails.
    """
    earlier = Artifact.load(against) if against is not None and not update and (against / MANIFEST).is_file() else None
    before = baseline.read(against) if against is not None and not update and earlier is None else None
    if against is not None and (then := _named(earlier) if earlier is not None else _seen(before)) is not None:
        baseline.check_model(against, then, _named(artifact))
    artifacts = [artifact] if earlier is None else [artifact, earlier]
    how = how.recording() if update else how
    found = observe(artifacts, recipe, how, progress)
    now, before = found[0], found[1] if earlier is not None else before
    if against is not None and before is not None:
        before = before.only(how.variants)  # what is not judged is not missed
        baseline.check(against, before, now)
    metric, same = recipe.metric if recipe is not None else None, earlier is not None
    lines = judge(now, before, limits, metric, same=same)
    if slow_or_unsure(lines):
        again = retimed(artifacts, found, how, progress)
        second = judge(again[0], again[1] if same else before, limits, metric, same=same)
        pooled = [pool(a, b) for a, b in zip(found, again, strict=True)]
        now, before = pooled[0], pooled[1] if same else before
        lines = confirmed(lines, second, judge(now, before, limits, metric, same=same))
    since = changes(before, now) if before is not None else []
    blames = [b for line in lines if (b := blame(line, lines, now, before, since)) is not None]
    written = against if update and against is not None and exit_code(lines) != 1 else None
    if written is not None:
        baseline.write(written, now)
    return Outcome(lines, blames, since, now, before, written)


def _named(artifact: Artifact) -> tuple[str, Interfaces]:
    return artifact.manifest.name, artifact.manifest.interface


def _seen(before: Observation | None) -> tuple[str, Interfaces] | None:
    return (before.model, before.interface) if before is not None else None


def as_json(outcome: Outcome) -> dict[str, object]:
    """Return what ``--format json`` prints: everything but the rows per example."""
    return {
        "status": outcome.status,
        "exit_code": outcome.exit_code,
        "model": outcome.now.model,
        "lines": outcome.lines,
        "blames": outcome.blames,
        "changes": outcome.changes,
        "tried": outcome.tried,
        "observation": without_rows(outcome.now),
        "baseline_written": str(outcome.written) if outcome.written else None,
    }


def without_rows(seen: Observation) -> Observation:
    """Leave the values and the labels per example out."""
    variants = tuple(
        msgspec.structs.replace(v, score=msgspec.structs.replace(
            v.score, rows=msgspec.structs.replace(v.score.rows, packed="")
        )) if v.score else v for v in seen.variants
    )  # fmt: skip
    if (data := seen.data) is not None:
        bare = tuple(msgspec.structs.replace(s, packed="") for s in data.slicings)
        data = msgspec.structs.replace(data, slicings=bare)
    return msgspec.structs.replace(seen, variants=variants, data=data)
