"""Undoes, one at a time, what differs from the baseline, and judges again: what makes a gate hold is to blame.

What cannot be undone here, another runtime or another machine, is said to be so, and stays a suspicion in its order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import msgspec

from dlc.artifact import Artifact
from dlc.errors import DlcError
from dlc.gate.blame import Blame, revised
from dlc.gate.changes import Change, Kind, changes_numbers
from dlc.gate.flow import Outcome
from dlc.gate.judging import judge
from dlc.gate.limits import Limits
from dlc.gate.lines import Line
from dlc.gate.observation import Observation, PassSeen, VariantSeen
from dlc.gate.rebuilding import Build, Rebuilder
from dlc.harness.accuracy import Metric
from dlc.manifest import Record
from dlc.progress import Progress
from dlc.recipe import Recipe
from dlc.stages.amending import Amended

Result = Literal["holds", "fails", "inconclusive", "not testable here"]
NOT_HERE: dict[Kind, str] = {
    "runtime": "it takes the earlier runtime", "machine": "it takes the earlier machine",
    "source": "it takes the earlier source", "data": "it takes the earlier data", "shape": "it takes the earlier data",
    "compiler": "it takes the earlier versions", "quantization": "it takes the earlier calibration data",
}  # fmt: skip
"""Why nothing undoes a difference, by its kind."""
CONTROL = "rebuilt with nothing undone"
BY_NUMBERS = ("accuracy", "slices", "agreement")
"""First words of the gates that look at outputs only, so that another variant's can be judged in their place."""


class Tried(Record, frozen=True, kw_only=True):
    """What became of a gate with one difference undone."""

    gate: str
    kind: Kind
    undone: str
    result: Result
    note: str = ""

    def __str__(self) -> str:
        words = {"holds": "the gate holds", "fails": "it fails all the same", "inconclusive": "it is inconclusive"}
        return f"{self.undone}: {words.get(self.result, self.result)}{f' ({self.note})' if self.note else ''}"


@dataclass(frozen=True, slots=True)
class Undo:
    """One difference, and how an artifact is made without it; ``fault``: why that cannot be."""

    kind: Kind
    text: str
    rebuild: Build
    note: str = ""
    fault: str = ""


Again = Callable[[Artifact], Outcome]
"""Runs the gate on another artifact."""


def undone(
    outcome: Outcome, rebuilder: Rebuilder, again: Again, limits: Limits, metric: Metric | None, progress: Progress
) -> Outcome:
    """Try every undo until each gate that fails holds once; return the outcome with what was tried, blamed anew.

    First the artifact is rebuilt as it is: a failure that this does not show again is none of what is recorded.
    """
    failing = {line.name: line for line in outcome.lines if line.name in outcome.blame_of()}
    before = outcome.before
    if before is None or not failing:
        return outcome
    found = _Trials(failing, again, rebuilder.fault())
    variants = tuple(dict.fromkeys([outcome.now.reference, *(line.variant for line in failing.values())]))
    steps = list(undos(before, outcome.now, variants, rebuilder))
    progress.stage("undo what changed", 1 + len(steps))
    for step in [Undo("compiler", CONTROL, rebuilder.compiled(variants)), *steps]:
        found.attempt(step)
        progress.advance()
    for line in found.open():
        if (result := _with_reference(line, outcome.now, before, limits, metric)) is not None:
            found.note(line, "quantization", f"{outcome.now.reference} in the place of {line.variant}", result)
        for change in _left(outcome.changes, line.variant):
            found.note(line, change.kind, change.text, "not testable here", NOT_HERE[change.kind])
    blames = [_revised(b, found.of(b.gate)) for b in outcome.blames]
    return replace(outcome, blames=blames, tried=found.tried)


class _Trials:
    """What was tried so far; a gate that held once is not tried again."""

    def __init__(self, failing: dict[str, Line], again: Again, fault: str | None):
        self.failing, self.again, self.fault = failing, again, fault
        self.tried: list[Tried] = []

    def open(self) -> list[Line]:
        """Return the lines that did not hold yet."""
        held = {t.gate for t in self.tried if t.result == "holds"}
        return [line for name, line in self.failing.items() if name not in held]

    def of(self, gate: str) -> list[Tried]:
        return [t for t in self.tried if t.gate == gate]

    def note(self, line: Line, kind: Kind, what: str, result: Result, note: str = "") -> None:
        self.tried.append(Tried(gate=line.name, kind=kind, undone=what, result=result, note=note))

    def attempt(self, step: Undo) -> None:
        """Rebuild, and run the gate again."""
        if not (lines := self.open()):
            return
        problem, found = step.fault or self.fault, dict[str, Line]()
        if not problem:
            try:
                with TemporaryDirectory(prefix="dlc-undo-") as folder:
                    found = {line.name: line for line in self.again(step.rebuild(Path(folder))).lines}
            except DlcError as error:
                problem = str(error)
        for line in lines:
            result = None if problem else _result(found.get(line.name))
            if result is None:
                self.note(line, step.kind, step.text, "not testable here", problem or "that gate is not judged then")
            else:
                self.note(line, step.kind, step.text, result, step.note)


def undos(before: Observation, now: Observation, variants: Sequence[str], rebuilder: Rebuilder) -> Iterator[Undo]:
    """List what can be undone, the more particular first: passes and their options, session options, calibration."""
    seen = set[str]()
    for precision in variants:
        then, own = before.variant(precision), now.variant(precision)
        if then is None or own is None:
            continue
        for step in _of_variant(then, own, now, tuple(variants), rebuilder):
            if step.text not in seen:
                seen.add(step.text)
                yield step
    recipe = rebuilder.recipe
    if before.calibration != now.calibration and recipe.evaluation is not None and recipe.calibration is not None:
        yield Undo(
            "quantization", "calibrated on the inputs of the evaluation data",
            rebuilder.compiled(tuple(variants), recipe=_calibrated_elsewhere(recipe)),
            "the earlier calibration data are not here",
        )  # fmt: skip


def _of_variant(
    then: VariantSeen, own: VariantSeen, now: Observation, variants: tuple[str, ...], rebuilder: Rebuilder
) -> Iterator[Undo]:
    earlier = {p.name: p for p in then.passes}
    changed = [p for p in own.passes if earlier.get(p.name) != p]
    if not changed and then.files != own.files:  # another version of a pass may do otherwise at the same places
        changed = [p for p in own.passes if p.applied and not changes_numbers(p.name)]
    for each in changed:
        text, amended = _amended(earlier.get(each.name), each)
        kind: Kind = "quantization" if changes_numbers(each.name) else "compiler"
        graph = now.variant(now.reference)
        baked = graph is not None and each.name in [p.name for p in graph.passes] and not rebuilder.whole
        fault = "it runs on the source, which is not here: name the recipe that has it with -r" if baked else ""
        yield Undo(kind, text, rebuilder.compiled(variants, amended), fault=fault)
    if then.session != own.session:
        text = f"{own.precision} with its earlier session options"
        yield Undo("compiler", text, rebuilder.with_session(own.precision, then.session))


def _amended(then: PassSeen | None, own: PassSeen) -> tuple[str, Amended]:
    """Put earlier options back; leave out the places that are new to a quantizer, and any other pass altogether."""
    options = {k: v for k, v in then.options.items() if own.options.get(k, v) != v} if then else {}
    if options:
        shown = ", ".join(f"{k} {v}" for k, v in options.items())
        return f"pass {own.name} with its earlier {shown}", Amended(options={own.name: options})
    new = sorted(set(own.applied) - set(then.applied)) if then else []
    if new and "exclude" in own.options:
        exclude = [*msgspec.json.decode(own.options["exclude"], type=list[str]), *new]
        text = f"pass {own.name} without the {len(new)} places that are new"
        return text, Amended(options={own.name: {"exclude": msgspec.json.encode(exclude).decode()}})
    return f"pass {own.name} left out", Amended(without=frozenset([own.name]))


def _calibrated_elsewhere(recipe: Recipe) -> Recipe:
    assert recipe.evaluation is not None
    inputs = recipe.evaluation.part(recipe.evaluation.batches, name=f"inputs of {recipe.evaluation.name}")
    return replace(recipe, calibration=inputs)


def _with_reference(
    line: Line, now: Observation, before: Observation, limits: Limits, metric: Metric | None
) -> Result | None:
    """Judge the reference's outputs in the place of a variant's: the same graph before it was quantized."""
    reference = now.variant(now.reference)
    if line.gate.partition(" ")[0] not in BY_NUMBERS or line.variant == now.reference or reference is None:
        return None
    own = now.variant(line.variant)
    if own is None or reference.score is None:
        return None
    instead = msgspec.structs.replace(own, score=reference.score, outputs=reference.outputs, fault=reference.fault)
    swapped = tuple(instead if v.precision == line.variant else v for v in now.variants)
    lines = judge(msgspec.structs.replace(now, variants=swapped), before, limits, metric)
    return _result(next((each for each in lines if each.name == line.name), None))


def _left(changes: Sequence[Change], variant: str) -> Iterator[Change]:
    """Yield the differences that nothing here undoes."""
    for change in changes:
        if change.variant is None or (change.variant == variant and change.text.endswith(" is gone")):
            yield change


def _result(line: Line | None) -> Result | None:
    """Return what became of a gate; None where it was not judged."""
    words: dict[str | None, Result] = {"pass": "holds", "fail": "fails", "inconclusive": "inconclusive"}
    return words.get(line.status) if line is not None else None


def _revised(blame: Blame, tried: Sequence[Tried]) -> Blame:
    """Blame what made the gate hold, and say what else was tried."""
    culprit = next((t for t in tried if t.result == "holds"), None)
    if culprit is None:
        return revised(blame, None, "", map(str, tried))
    because = f"with one thing undone the gate holds: {culprit.undone}"
    if culprit.undone == CONTROL:
        because = "rebuilt as it is, the gate holds: what compiled these files, or altered them since, is to blame"
    return revised(blame, culprit.kind, because, map(str, tried))
