"""From observations to lines: pure; a second look at the clock is taken before a latency fails."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dlc.gate.accuracy_gates import Accuracies
from dlc.gate.cost_gates import Costs
from dlc.gate.determinism import determinism
from dlc.gate.leakage import leakage
from dlc.gate.limits import Limits
from dlc.gate.lines import Decided, Line, corrected
from dlc.gate.observation import Observation
from dlc.gate.slice_gates import Slices
from dlc.harness.accuracy import Metric
from dlc.harness.pace import busier
from dlc.harness.ratios import ratio, spread
from dlc.manifest import ExpectationRecord, Status

SPEED = ("latency", "latency since baseline", "throughput since baseline")


def judge(
    now: Observation, before: Observation | None, limits: Limits, metric: Metric | None, *, same: bool = False
) -> list[Line]:
    """Judge every variant by every gate. ``same``: both were measured in the same sittings."""
    accuracies, costs = Accuracies(now, before, limits, metric), Costs(now, before, limits, same)
    slices = Slices(now, before, limits, metric)
    found = [_fusions(hit, now.reference) for hit in now.fusions]
    for variant in now.variants:
        found += accuracies.of(variant)
        found += slices.of(variant)
        found += costs.of(variant)
        found += map(Decided, determinism(now, before, variant))
        found += map(Decided, leakage(now, variant))
        found += _data_missing(now, variant.precision)
    found += _variants_missing(now, before)
    return corrected(found)


def slow_or_unsure(lines: Sequence[Line]) -> bool:
    """Whether a latency does not pass, so that it is measured again."""
    return any(line.gate in SPEED and line.status in ("fail", "inconclusive") for line in lines)


def confirmed(first: Sequence[Line], second: Sequence[Line], pooled: Sequence[Line]) -> list[Line]:
    """Let a latency fail only where a second measurement fails too; else both together pass it or leave it open."""
    again, both = ({line.name: line for line in each} for each in (second, pooled))
    return [_confirmed(line, again[line.name], both[line.name]) for line in first]


def pool(first: Observation, second: Observation) -> Observation:
    """Put the sittings of two measurements of one artifact together; percentiles and rates stay the first's.

    The reference's latency is the middle of the two; the machine was as busy as in the busier.
    """
    variants, again = [], (*first.again, *second.again)
    for one, other in zip(first.variants, second.variants, strict=True):
        logs = (*one.timing.logs, *other.timing.logs)
        timing = msgspec.structs.replace(
            one.timing, logs=logs, ratio=ratio(logs, spread(again)),
            settled=one.timing.settled + other.timing.settled,
            throughput=(*one.timing.throughput, *other.timing.throughput),
        )  # fmt: skip
        variants.append(msgspec.structs.replace(one, timing=timing))
    return msgspec.structs.replace(
        first, again=again, away=busier(first.away, second.away),
        again_throughput=(*first.again_throughput, *second.again_throughput),
        reference_ms=(first.reference_ms + second.reference_ms) / 2, variants=tuple(variants),
    )  # fmt: skip


def _confirmed(line: Line, again: Line, both: Line) -> Line:
    if line.gate not in SPEED or line.status not in ("fail", "inconclusive"):
        return line
    status: Status = (
        "fail" if again.status == both.status == "fail" else "pass" if both.status == "pass" else "inconclusive"
    )
    return msgspec.structs.replace(both, status=status, reason=f"{both.reason}; two measurements")


def _data_missing(now: Observation, precision: str) -> list[Decided]:
    """Say that a metric was promised and could not be measured."""
    if precision == now.reference or now.data is not None or now.stated is None:
        return []
    reason = "the task's metric was not measured: name the recipe, whose data it needs, with -r"
    return [Decided(Line(variant=precision, gate="accuracy", status="inconclusive", reason=reason))]


def _variants_missing(now: Observation, before: Observation | None) -> list[Decided]:
    """A variant that the baseline has and the artifact has no more fails; a new one is remarked upon."""
    if before is None:
        return []
    then, own = ([v.precision for v in each.variants] for each in (before, now))
    gone = "the baseline has this variant, the artifact does not"
    new = "the baseline does not have this variant: --update-baseline adds it"
    return [
        *(Decided(Line(variant=p, gate="built", status="fail", reason=gone)) for p in then if p not in own),
        *(Decided(Line(variant=p, gate="built", status=None, reason=new)) for p in own if p not in then),
    ]


def _fusions(hit: ExpectationRecord, reference: str) -> Decided:
    """Hold the compile to the places at which its recipe expects a rewrite to fit."""
    status: Status = "pass" if hit.found >= hit.expected else "fail"
    reason = f"{hit.rewrite} expected at {hit.expected} places, found at {hit.found} ({hit.applied} applied)"
    if status == "fail":
        reason += f"; elsewhere: {'; '.join(hit.reasons) or 'nothing looks like what it forms'}"
    return Decided(Line(
        variant=reference, gate=f"places of {hit.rewrite}", status=status, value=hit.found, limit=hit.expected,
        reason=reason,
    ))  # fmt: skip
