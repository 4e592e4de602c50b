"""Gates on slices: none may collapse while the mean holds. One line a variant, which names the worst of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dlc.errors import DlcError
from dlc.gate.limits import Limits
from dlc.gate.lines import Decided, Line
from dlc.gate.observation import DataSeen, Observation, Score, VariantSeen
from dlc.harness.accuracy import Metric
from dlc.harness.behind import Behind, apart, behind
from dlc.harness.proportions import ALPHA, holm
from dlc.harness.slices import FEW
from dlc.harness.statistics import score
from dlc.manifest import Status
from dlc.types import Floats

BESIDE = "slices"
SINCE = "slices since baseline"
SHOWN = 3
"""Further slices that a line names; the rest are counted."""
ORDER: Mapping[Status | None, int] = {"fail": 3, "inconclusive": 2, "pass": 1, None: 0}


@dataclass(frozen=True, slots=True)
class Sliced:
    """One slice of two models. ``found`` None: the candidate has no value there, and the reference one.

    ``status`` None: it is too small to hold the limit for certain. ``p``: that it did not fall behind.
    """

    name: str
    examples: int
    score: float
    margin: float
    found: Behind | None
    status: Status | None
    p: float

    @property
    def severity(self) -> tuple[int, float]:
        """What sorts the worst to the end: the outcome first, then how far the end that counts is beyond the margin."""
        if self.found is None:
            return ORDER[self.status], float("inf")
        drop = self.found.drop
        return ORDER[self.status], (drop.value if self.status == "fail" else drop.high) - self.margin


Compare = Callable[[Floats, Floats, Metric, np.random.Generator], Behind]
Judged = Callable[[Behind, float], tuple[Status, float]]
"""A comparison and its margin to an outcome, and the p-value that a failure would need."""


@dataclass(frozen=True, slots=True)
class Slices:
    """All gates on slices of one run. ``metric`` None: there is none, or no data."""

    now: Observation
    before: Observation | None
    limits: Limits
    metric: Metric | None

    def of(self, variant: VariantSeen) -> Iterator[Decided]:
        """Judge one variant on every slice, beside FP32 and since the baseline."""
        data, own = self.now.data, variant.score
        if self.metric is None or data is None or own is None or not data.slicings:
            return
        reference = self.now.variant(self.now.reference)
        if variant.precision != self.now.reference and reference is not None and reference.score is not None:
            found = self._compared(self.metric, _parts(data, reference.score, data, own), behind, _beside)
            yield self._line(variant, BESIDE, found, "FP32")
        earlier = self.before.variant(variant.precision) if self.before else None
        if self.before is not None and self.before.data is not None and earlier is not None and earlier.score:
            yield self._since(self.metric, variant, own, data, earlier, earlier.score, self.before)

    def _since(
        self, metric: Metric, variant: VariantSeen, own: Score, data: DataSeen, earlier: VariantSeen, then: Score,
        before: Observation,
    ) -> Decided:  # fmt: skip
        paired = self.now.on_data_of(before)
        if paired and variant.outputs == earlier.outputs:
            text = f"{own.metric} on {sum(len(s.labels) for s in data.slicings)} slices"
            reason = f"{text}: every output is the baseline's, bit for bit"
            return Decided(Line(variant=variant.precision, gate=SINCE, status="pass", value=0.0, reason=reason))
        assert before.data is not None
        cut = data if paired else before.data  # rows in the same order are cut by today's labels
        parts = _parts(cut, then, data, own)
        found = self._compared(metric, parts, behind if paired else apart, _since)
        versus = "the baseline" if paired else "the baseline (on other data, so not example by example)"
        gone = sorted({name for s in before.data.slicings for name in s.names()} - set(parts))
        return self._line(variant, SINCE, found, versus, gone)

    def _compared(
        self, metric: Metric, parts: Mapping[str, tuple[Floats, Floats]], compare: Compare, judged: Judged
    ) -> list[Sliced]:
        """Compare every slice that has a value, and let a failure stand only if it is beyond chance among them."""
        found = [
            one for name, rows in parts.items() if (one := self._one(metric, name, *rows, compare, judged)) is not None
        ]
        adjusted = holm([each.p for each in found])
        return [_settled(each, p) for each, p in zip(found, adjusted, strict=True)]

    def _one(
        self, metric: Metric, name: str, reference: Floats, own: Floats, compare: Compare, judged: Judged
    ) -> Sliced | None:
        """Compare one slice; None where the reference has no value, say with one class only."""

        def against(candidate: Floats) -> Behind:
            return compare(reference, candidate, metric, np.random.default_rng(self.now.seed))

        try:
            found = against(own)
        except DlcError:
            try:
                against(reference)
            except DlcError:  # then the slice is at fault, not the candidate
                return None
            return Sliced(name, len(own), 0.0, 0.0, None, "fail", 0.0)
        margin = self.limits.slice_margin(score(metric.statistic, reference))
        status, p = judged(found, margin)
        few = len(own) < FEW and status != "fail"
        return Sliced(name, len(own), score(metric.statistic, own), margin, found, None if few else status, p)

    def _line(
        self, variant: VariantSeen, gate: str, found: Sequence[Sliced], versus: str, gone: Sequence[str] = ()
    ) -> Decided:
        if not found:
            reason = f"no slice of the baseline is there any more: {_some(gone)}" if gone else "no slice has a value"
            status: Status | None = "inconclusive" if gone else None
            return Decided(Line(variant=variant.precision, gate=gate, status=status, reason=reason))
        worst = max(found, key=lambda each: each.severity)
        status = "inconclusive" if gone and worst.status in ("pass", None) else worst.status
        assert variant.score is not None
        reason = _written(worst, variant.score, versus) + _others(worst, found)
        if gone:
            reason += f"; no longer there, so not compared: {_some(gone)}"
        drop = worst.found.drop if worst.found else None
        line = Line(
            variant=variant.precision, gate=gate, status=status, limit=worst.margin, reason=reason,
            **({"value": drop.value, "low": drop.low, "high": drop.high} if drop else {}),
        )  # fmt: skip
        return Decided(line, min(each.p for each in found))


def _beside(found: Behind, margin: float) -> tuple[Status, float]:
    """Beside FP32: fails if the whole interval is beyond the margin."""
    status: Status = "pass" if found.drop.high <= margin else "fail" if found.drop.low > margin else "inconclusive"
    return status, found.chance(margin)


def _since(found: Behind, margin: float) -> tuple[Status, float]:
    """Since the baseline: fails if it is estimated beyond the margin, and not by chance."""
    status: Status = "pass" if found.drop.high <= margin else "fail" if found.drop.value > margin else "inconclusive"
    return status, found.chance(0.0)


def _settled(each: Sliced, p: float) -> Sliced:
    if each.status == "fail" and p >= ALPHA:
        return replace(each, status="inconclusive" if each.examples >= FEW else None, p=p)
    return replace(each, p=p)


def _parts(cut: DataSeen, then: Score, data: DataSeen, now: Score) -> dict[str, tuple[Floats, Floats]]:
    """Return the rows of both models on every slice that both data sets have."""
    before, after = then.rows.unpack(), now.rows.unpack()
    theirs = {name: where for s in cut.slicings for name, where in s.members()}
    own = {name: where for s in data.slicings for name, where in s.members()}
    return {name: (before[theirs[name]], after[where]) for name, where in own.items() if name in theirs}


def _written(each: Sliced, own: Score, versus: str) -> str:
    few = f"{each.examples} examples" + (" are few" if each.examples < FEW else "")
    if each.found is None:
        return f"slice {each.name} ({few}): no {own.metric} can be computed, and {versus} has one"
    drop, unit = each.found.drop, " %" if own.unit == "%" else ""
    points = " points" if own.unit in ("%", "/100") else f" {own.unit}".rstrip()
    return (
        f"slice {each.name} ({few}): {own.metric} {each.score:.2f}{unit}, {abs(drop.value):.2f}{points} "
        f"{'behind' if drop.value >= 0 else 'ahead of'} {versus} [{drop.low:.2f}, {drop.high:.2f}], at most "
        f"{each.margin:.2f}"
    )


def _others(worst: Sliced, found: Sequence[Sliced]) -> str:
    """Say how the others did: those that fare like the worst by name."""
    few = sum(each.status is None for each in found)
    idle = f"; {few} with fewer than {FEW} examples can only fail" if few else ""
    alike = sorted((e for e in found if e is not worst and e.status == worst.status), key=lambda e: e.severity)
    if worst.status in ("fail", "inconclusive") and alike:
        so = "fail" if worst.status == "fail" else "are inconclusive"
        return f"; of {len(found)} slices {len(alike) + 1} {so}, also {_some([e.name for e in reversed(alike)])}{idle}"
    return (f"; the worst of {len(found)} slices" if len(found) > 1 else "") + idle


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
