"""Gates on accuracy: the reference against what its manifest states, each variant against FP32 and the baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dlc.gate.limits import Limits
from dlc.gate.lines import Decided, Line
from dlc.gate.observation import Observation, Score, VariantSeen
from dlc.harness.accuracy import Metric
from dlc.harness.agreement import held, in_words
from dlc.harness.behind import Behind, apart, behind
from dlc.harness.proportions import least_examples
from dlc.manifest import Status


@dataclass(frozen=True, slots=True)
class Accuracies:
    """All gates on accuracy of one run. ``metric`` None: there is none, or no data."""

    now: Observation
    before: Observation | None
    limits: Limits
    metric: Metric | None

    def of(self, variant: VariantSeen) -> Iterator[Decided]:
        """Judge one variant."""
        if variant.fault is not None:
            yield Decided(Line(variant=variant.precision, gate="outputs", status="fail", reason=variant.fault))
            return
        if variant.golden is not None:
            yield Decided(_golden(variant, *variant.golden))
        if variant.precision == self.now.reference:
            yield from self._stated(variant)
        else:
            yield from self._against_reference(variant)
        yield from self._against_baseline(variant)

    def _stated(self, reference: VariantSeen) -> Iterator[Decided]:
        """Check the reference itself: one that fails its stated accuracy is no reference."""
        stated, score = self.now.stated, reference.score
        if stated is None:
            return
        if score is None:
            line = Line(
                variant=reference.precision, gate="stated accuracy", status="inconclusive", value=stated.value,
                reason="the compile measured a metric and there is no data for it here: name the recipe with -r",
            )  # fmt: skip
            yield Decided(line)
            return
        same = self.now.data is not None and self.now.data.sha256 == self.now.stated_data
        sign = 1 if score.higher_is_better else -1
        margin = self.limits.margin(stated.value)
        # The same data give the same figure, up to rounding; other data of the same kind one within the interval.
        edge = (stated.value if same else stated.low if sign > 0 else stated.high) - sign * margin
        missed = sign * (edge - score.value.value) > 0
        text = f"{_value(score)}, {stated.value:.2f} when compiled{'' if same else ' (on other data)'}"
        if missed:
            text += "; nothing can be judged against it: look at the data and its preprocessing first"
        yield Decided(_line(reference, "stated accuracy", "fail" if missed else "pass", score, edge, text))

    def _against_reference(self, variant: VariantSeen) -> Iterator[Decided]:
        reference, gates = self.now.variant(self.now.reference), self.limits.recipe
        score, agreement = variant.score, variant.agreement
        wanted = gates.agreement if score is not None else max(gates.cosine, gates.agreement or 0.0)
        if wanted is not None and agreement is not None:
            status, p = held(agreement, wanted)
            low, high = agreement.interval or (None, None)
            yield Decided(Line(
                variant=variant.precision, gate="agreement", status=status, value=agreement.cosine, low=low, high=high,
                limit=wanted, reason=in_words(agreement, wanted),
            ), p)  # fmt: skip
        if self.metric is None or score is None or reference is None or reference.score is None:
            return
        rows = reference.score.rows.unpack(), score.rows.unpack()
        found = behind(*rows, self.metric, self._rng())
        margin = self.limits.margin(reference.score.value.value)
        low, high = found.drop.low, found.drop.high
        status = "pass" if high <= margin else "fail" if low > margin else "inconclusive"
        yield self._tested(variant, "accuracy", status, found, margin, "FP32", found.chance(margin))

    def _against_baseline(self, variant: VariantSeen) -> Iterator[Decided]:
        earlier = self.before.variant(variant.precision) if self.before else None
        if self.before is None or self.metric is None or earlier is None or earlier.score is None:
            return
        if variant.score is None:
            reason = "the baseline has a metric, and there is no data for it here: name the recipe with -r"
            yield Decided(Line(
                variant=variant.precision, gate="accuracy since baseline", status="inconclusive", reason=reason
            ))  # fmt: skip
            return
        margin = self.limits.margin(earlier.score.value.value)
        if self._same_data() and variant.outputs == earlier.outputs:
            text = f"{_value(variant.score)}: every output is the baseline's, bit for bit"
            line = _line(variant, "accuracy since baseline", "pass", None, margin, text)
            yield Decided(line)
            return
        rows = earlier.score.rows.unpack(), variant.score.rows.unpack()
        found = (behind if self._same_data() else apart)(*rows, self.metric, self._rng())
        status: Status = "pass" if found.drop.high <= margin else "inconclusive"
        p = found.chance(0.0)
        if found.drop.value > margin:
            status = "fail"  # stands if it is beyond chance: ``corrected``
        versus = "the baseline" if self._same_data() else "the baseline (on other data, so not example by example)"
        yield self._tested(variant, "accuracy since baseline", status, found, margin, versus, p)

    def _tested(
        self, variant: VariantSeen, gate: str, status: Status, found: Behind, margin: float, versus: str, p: float
    ) -> Decided:
        assert variant.score is not None
        drop, score = found.drop, variant.score
        unit = " points" if score.unit in ("%", "/100") else f" {score.unit}".rstrip()
        text = (
            f"{_value(score)}, {abs(drop.value):.2f}{unit} {'behind' if drop.value >= 0 else 'ahead of'} {versus} "
            f"[{drop.low:.2f}, {drop.high:.2f}], at most {margin:.2f}"
        )
        line = Line(
            variant=variant.precision, gate=gate, status=status, value=drop.value, low=drop.low, high=drop.high,
            limit=margin, reason=text,
        )  # fmt: skip
        return Decided(line, p, _power(found, margin, unit))

    def _same_data(self) -> bool:
        return self.before is not None and self.now.on_data_of(self.before)

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng(self.now.seed)


def _golden(variant: VariantSeen, error: float, bound: float) -> Line:
    status: Status = "pass" if error <= bound else "fail"
    return Line(
        variant=variant.precision, gate="golden vectors", status=status, value=error, limit=bound,
        reason=f"largest relative error {error:.2g}, at most {bound:.2g}",
    )  # fmt: skip


def _line(variant: VariantSeen, gate: str, status: Status, score: Score | None, limit: float, text: str) -> Line:
    value = score.value if score else None
    return Line(
        variant=variant.precision, gate=gate, status=status, limit=limit, reason=text,
        value=value.value if value else 0.0, low=value.low if value else None, high=value.high if value else None,
    )  # fmt: skip


def _value(score: Score) -> str:
    return f"{score.metric} {score.value.value:.2f}{' %' if score.unit == '%' else ''}"


def _power(found: Behind, margin: float, unit: str) -> str:
    """Say what so many examples can tell."""
    if margin <= 0:
        return "no number of examples shows that nothing at all was lost: state a margin"
    if found.least > margin:
        least = least_examples(margin / found.factor)
        return f"{found.examples} examples cannot show that a margin of {margin:.2f}{unit} holds: take {least} or more"
    if (unseen := found.unseen) is None:
        return f"{found.examples} examples cannot tell any drop from none"
    return f"with {found.examples} examples a drop below {unseen:.1f}{unit} cannot be seen"
