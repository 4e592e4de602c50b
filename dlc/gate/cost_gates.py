"""Gates on latency, throughput, size and memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from dlc.gate.changes import in_words
from dlc.gate.limits import Limits
from dlc.gate.lines import Decided, Line
from dlc.gate.memory_gate import grown
from dlc.gate.observation import Observation, VariantSeen
from dlc.harness import pace
from dlc.harness.pace import busier
from dlc.harness.ratios import ratio, shift, slower, spread
from dlc.report import numbers

STEADY = 1.10
"""The reference, the same model in both runs, may take this factor longer or shorter than when the baseline was
recorded; beyond it the machine is another or otherwise busy, and a ratio may have moved with it."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast one model was. ``logs``: of its time against the reference's, one a sitting; ``again``: A against A.

    ``beside``: how it compares with the reference, in words.
    """

    what: str
    logs: tuple[float, ...]
    again: tuple[float, ...]
    beside: str


@dataclass(frozen=True, slots=True)
class Costs:
    """All gates on costs of one run. ``same``: the baseline was measured in the same sittings."""

    now: Observation
    before: Observation | None
    limits: Limits
    same: bool = False

    def of(self, variant: VariantSeen) -> Iterator[Decided]:
        """Judge one variant."""
        if variant.precision != self.now.reference:
            yield from self._against_reference(variant)
        earlier = self.before.variant(variant.precision) if self.before else None
        if earlier is not None and self.before is not None:
            if variant.precision != self.now.reference or self.same:
                yield self._speed(variant, earlier, self.before)
            else:
                yield Decided(self._reference_speed(variant, self.before))
            yield Decided(self._growth(variant, earlier))
            yield self._memory(variant, earlier, self.before)

    def _against_reference(self, variant: VariantSeen) -> Iterator[Decided]:
        gates, stock = self.limits.recipe, self.now.stock_ratio
        if gates.max_latency_ratio is not None:
            found, limit = variant.timing.ratio, gates.max_latency_ratio / (stock or 1.0)
            status = pace.held(found, limit)
            said = f" ({gates.max_latency_ratio:g}× of stock, of which fp32 took {stock:.3f}×)" if stock else ""
            if status == "fail" and (why := self._unfit(variant, None)) is not None:
                status, said = "inconclusive", f"{said}; {why}"
            yield Decided(Line(
                variant=variant.precision, gate="latency", status=status, value=found.value, low=found.low,
                high=found.high, limit=limit, reason=f"{numbers.ratio(found)} of fp32, at most {limit:.3f}×{said}",
            ), slower(variant.timing.logs, limit, spread(self.now.again)))  # fmt: skip
        reference = self.now.variant(self.now.reference)
        if gates.max_size_ratio is not None and reference is not None:
            share = variant.size.bytes / reference.size.bytes
            status = "pass" if share <= gates.max_size_ratio else "fail"
            reason = f"{numbers.size(variant.size.bytes)}, {share:.3f}× of fp32, at most {gates.max_size_ratio:g}×"
            yield Decided(Line(
                variant=variant.precision, gate="size", status=status, value=share, limit=gates.max_size_ratio,
                reason=reason,
            ))  # fmt: skip

    def _speed(self, variant: VariantSeen, earlier: VariantSeen, before: Observation) -> Decided:
        """Compare the ratio to FP32 now with the one then: what slows both alike cancels."""
        gate = f"{self.limits.objective} since baseline"
        if (unlike := self._unlike(before)) is not None:
            return Decided(Line(
                variant=variant.precision, gate=gate, status=None,
                reason=f"{unlike}, where times say nothing of these; record a baseline on this kind of machine",
            ))  # fmt: skip
        of = _throughput if self.limits.objective == "throughput" else _latency
        now, then = of(self.now, variant), of(before, earlier)
        if not (now.logs and now.again and then.logs and then.again):
            return Decided(Line(
                variant=variant.precision, gate=gate, status="inconclusive",
                reason="the baseline holds no throughput, or none of A against A: write it anew with --update-baseline",
            ))  # fmt: skip
        return self._judged(variant, gate, now, then, before)

    def _judged(self, variant: VariantSeen, gate: str, now: Pace, then: Pace, before: Observation) -> Decided:
        limit, floor = self.limits.max_slowdown, max(spread(now.again), spread(then.again))
        moved = shift(now.logs, then.logs, same=self.same, floor=floor, limit=limit)
        factor = moved.factor
        status = pace.held(factor, limit)
        text = (
            f"{now.what} {numbers.ratio(factor)} of the baseline's, at most {limit:g}× "
            f"({now.beside} of fp32; A against A ±{100 * floor:.1f} %)"
        )
        if status == "fail" and (why := self._unfit(variant, before)) is not None:
            status, text = "inconclusive", f"{text}; {why}"
        elif status == "inconclusive" and factor.value > limit:
            text += f"; {pace.UNSURE}"
        return Decided(Line(
            variant=variant.precision, gate=gate, status=status, value=factor.value, low=factor.low,
            high=factor.high, limit=limit, reason=text,
        ), moved.slower)  # fmt: skip

    def _unfit(self, variant: VariantSeen, before: Observation | None) -> str | None:
        """Say why this machine, or the one of the baseline, cannot make a latency fail; None if it can."""
        away = busier(self.now.away, before.away if before else None)
        if (why := pace.unfit(away, variant.timing.settled, len(variant.timing.logs))) is not None:
            return why
        drift = 1.0 if self.same or before is None else self.now.reference_ms / before.reference_ms
        if max(drift, 1 / drift) > STEADY:
            here, then = self.now.measured_on.machine, before.measured_on.machine if before else ""
            other = (
                f"this is {here}, it was {then}"
                if here and then and here != then
                else "the machine is another, or busy"
            )
            return f"fp32 itself takes {drift:.2f}× what it took then: {other}"
        return None

    def _reference_speed(self, variant: VariantSeen, before: Observation) -> Line:
        factor = self.now.reference_ms / before.reference_ms
        reason = (
            f"{numbers.milliseconds(self.now.reference_ms)}, {factor:.3f}× of when the baseline was recorded; times of "
            "another run decide nothing: name the earlier artifact as --baseline to time both in turns"
        )
        return Line(variant=variant.precision, gate="latency since baseline", status=None, value=factor, reason=reason)

    def _unlike(self, before: Observation) -> str | None:
        """Say why times are not comparable, None where they are."""
        if self.same:
            return None
        now, then = self.now.measured_on, before.measured_on
        for what in ("arch", "isa", "threads"):
            if (a := getattr(then, what)) != (b := getattr(now, what)):
                return f"the baseline was recorded with {what} {in_words(a)}, this is {in_words(b)}"
        if dict(self.now.dims) != dict(before.dims):
            return f"the baseline was timed at {_dims(before)}, this is {_dims(self.now)}"
        if self.now.concurrency != before.concurrency:
            return f"the baseline was timed with {before.concurrency} calls at once, this with {self.now.concurrency}"
        return None

    def _growth(self, variant: VariantSeen, earlier: VariantSeen) -> Line:
        """Sizes are exact: their interval is the number."""
        now, then, limit = variant.size.bytes, earlier.size.bytes, self.limits.max_growth
        factor = now / then
        reason = (
            f"{numbers.size(now)}, {numbers.size(variant.size.compressed_bytes)} compressed: {factor:.3f}× of the "
            f"baseline's {numbers.size(then)}, at most {limit:g}×"
        )
        return Line(
            variant=variant.precision, gate="size since baseline", status="pass" if factor <= limit else "fail",
            value=factor, limit=limit, reason=reason,
        )  # fmt: skip

    def _memory(self, variant: VariantSeen, earlier: VariantSeen, before: Observation) -> Decided:
        """What a runtime takes and packs is of its version and the ISA: recorded elsewhere it decides nothing."""
        found = grown(variant, earlier, self.limits.max_memory_growth)
        if self.now.on_machine_of(before):
            return found
        reason = f"recorded on {before.where}, this is {self.now.where}, which decides nothing: {found.line.reason}"
        return Decided(msgspec.structs.replace(found.line, status=None, reason=reason))


def _latency(seen: Observation, variant: VariantSeen) -> Pace:
    return Pace("latency", variant.timing.logs, seen.again, numbers.ratio(variant.timing.ratio))


def _throughput(seen: Observation, variant: VariantSeen) -> Pace:
    """Its noise floor is its own: windows by the wall clock are less steady than calls in CPU time."""
    rates, beside = variant.timing.throughput, ""
    if rates:
        calls = f"{seen.concurrency} call{'s' if seen.concurrency > 1 else ''} at once"
        rate = numbers.significant(variant.timing.per_second or 0.0, 4)
        more = ratio(rates, spread(seen.again_throughput))
        beside = f"{rate} examples/s at {_dims(seen)}, {calls}; {numbers.ratio(more)}"
    return Pace("time per example", tuple(-x for x in rates), seen.again_throughput, beside)


def _dims(seen: Observation) -> str:
    return ", ".join(f"{name}={size}" for name, size in seen.dims.items()) or "the fixed shape"
