"""From numbers to a verdict: pure, and one line of evidence for each gate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from dlc.harness import pace
from dlc.harness.agreement import held, in_words
from dlc.harness.ratios import slower, spread
from dlc.harness.several import by_chance
from dlc.harness.slices import collapses
from dlc.manifest import (
    Accuracy,
    Agreement,
    Estimate,
    ExpectationRecord,
    Latency,
    Size,
    SliceRecord,
    Status,
    VariantRecord,
    VerdictRecord,
)
from dlc.recipe import Gates, Precision

FP32_SLACK = 1.02
"""A compiled FP32 model may be this much slower than stock ONNX Runtime before it counts as slower."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One gate's outcome; ``status`` None: a remark that decides nothing. ``p``: that it fails by chance alone."""

    status: Status | None
    text: str
    p: float | None = None

    def __str__(self) -> str:
        return f"{self.status or 'note'}: {self.text}"


@dataclass(frozen=True, slots=True)
class Noise:
    """What the machine did to latencies. ``again``, ``away``: as in ``manifest.Reference``."""

    again: Sequence[float] = ()
    away: float | None = None

    @property
    def floor(self) -> float:
        """Standard deviation of A against A in one sitting."""
        return spread(self.again)


QUIET = Noise()


def judge(
    precision: Precision, gates: Gates, *, latency: Latency, size: Size, accuracy: Accuracy | None = None,
    agreement: Agreement | None = None, fault: str | None = None, leaked: int = 0, elsewhere: bool = False,
    hits: Sequence[ExpectationRecord] = (), slices: Sequence[SliceRecord] = (), noise: Noise = QUIET,
) -> list[Finding]:  # fmt: skip
    """Judge one variant against the FP32 reference, each gate by itself; ``verdicts`` sums up.

    ``fault``: why its outputs are of no use. ``leaked``: calibration examples that are evaluation examples too.
    ``elsewhere``: it was timed on another machine than its target, which decides nothing about the target's speed.
    ``hits``: of the rewrites that must fit, in the FP32 graph that every variant is made from. ``slices``: the metric
    on parts of the data.
    """
    findings = [
        *_quality(gates, accuracy, agreement, fault),
        *(Finding(*each) for each in collapses(slices, gates)),
        *_latency_gate(latency, gates.max_latency_ratio, noise),
        *_size_gate(size, gates.max_size_ratio),
        *(finding for each in hits for finding in _fusions(each)),
        _fp32_speed(latency, noise) if precision == "fp32" else _gain(latency, size, noise),
    ]
    if elsewhere:
        findings.append(Finding("inconclusive", "timed on another machine or runtime than the target"))
    if leaked:
        findings.append(Finding(None, f"{leaked} calibration examples are evaluation examples: accuracy may flatter"))
    return findings


def verdicts(variants: Sequence[Sequence[Finding]]) -> list[VerdictRecord]:
    """Let a failure stand only if it is beyond chance among all gates of all variants; the worst gate decides each.

    A pass needs no such correction: all gates must hold, and each would hold by chance as seldom as it does alone.
    """
    tested = [f for findings in variants for f in findings if f.p is not None]
    doubts = {id(f): doubt for f, doubt in zip(tested, by_chance([f.p for f in tested]), strict=True)}
    settled = [[_settled(f, doubts.get(id(f))) for f in findings] for findings in variants]
    return [VerdictRecord(status=worst(f.status for f in each), reasons=tuple(map(str, each))) for each in settled]


def worst(statuses: Iterable[Status | None]) -> Status:
    """Return fail before inconclusive before pass."""
    seen = set(statuses)
    return "fail" if "fail" in seen else "inconclusive" if "inconclusive" in seen else "pass"


def overall(variants: Iterable[VariantRecord]) -> int:
    """Exit code of a compile: 1 if a variant failed or none was built, 5 if one is inconclusive, else 0."""
    built: list[Status | None] = [v.verdict.status for v in variants if v.verdict.status != "not built"]
    return {"pass": 0, "fail": 1, "inconclusive": 5}[worst(built)] if built else 1


def _settled(finding: Finding, doubt: str | None) -> Finding:
    if finding.status != "fail" or doubt is None:
        return finding
    return replace(finding, status="inconclusive", text=f"{finding.text}; {doubt}")


def _quality(
    gates: Gates, accuracy: Accuracy | None, agreement: Agreement | None, fault: str | None
) -> Iterator[Finding]:
    if fault is not None:
        yield Finding("fail", fault)
    elif accuracy is not None:
        if gates.agreement is not None:
            yield _agreement(agreement, gates.agreement)
        if gates.max_drop is not None:
            yield _drop(accuracy, gates.max_drop)
            return
        yield _retention(accuracy, gates.retention)
        if (blind := _blind_spot(accuracy)) > 1 - gates.retention:
            yield Finding(None, f"on {accuracy.examples} examples a loss of {100 * blind:.1f} % could go unseen")
    elif agreement is not None:
        yield _agreement(agreement, max(gates.cosine, gates.agreement or 0.0))
        yield Finding(None, "no labels: the task's metric was not measured")
    else:
        yield Finding("inconclusive", "no data: neither the task's metric nor agreement with FP32 was measured")


def _agreement(agreement: Agreement | None, gate: float) -> Finding:
    if agreement is None:
        return Finding("inconclusive", "agreement with FP32 was not measured")
    status, p = held(agreement, gate)
    return Finding(status, in_words(agreement, gate), p)


def _retention(accuracy: Accuracy, gate: float) -> Finding:
    kept = accuracy.retention
    status: Status = "pass" if kept.low >= gate else "fail" if kept.high < gate else "inconclusive"
    return Finding(
        status,
        f"{accuracy.metric} {accuracy.value.value:.2f} keeps {100 * kept.value:.2f} % of FP32 "
        f"[{100 * kept.low:.2f}, {100 * kept.high:.2f}], at least {100 * gate:g} %",
        accuracy.chance,
    )


def _drop(accuracy: Accuracy, gate: float) -> Finding:
    behind, unit = accuracy.drop, f" {accuracy.unit}" if accuracy.unit else ""
    status: Status = "pass" if behind.high <= gate else "fail" if behind.low > gate else "inconclusive"
    return Finding(
        status,
        f"{accuracy.metric} {accuracy.value.value:.2f}{unit} falls {behind.value:.3f} behind FP32 "
        f"[{behind.low:.3f}, {behind.high:.3f}], at most {gate:g}",
        accuracy.chance,
    )


def _blind_spot(accuracy: Accuracy) -> float:
    """Share of examples that may change with none seen to: 3/n, the rule of three; 0 if some were seen to."""
    return 3 / accuracy.examples if accuracy.retention.low == accuracy.retention.high else 0.0


def _latency_gate(latency: Latency, limit: float | None, noise: Noise) -> Iterator[Finding]:
    if limit is not None:
        yield _speed(latency, limit, noise, f"latency {_times(latency.ratio)}, at most {limit:g}x")


def _speed(latency: Latency, limit: float, noise: Noise, text: str) -> Finding:
    """Hold a latency to a limit; what this machine cannot tell is inconclusive, and says why."""
    status, p = pace.held(latency.ratio, limit), slower(latency.logs, limit, noise.floor)
    if status == "fail" and (why := pace.unfit(noise.away, latency.settled, len(latency.logs))) is not None:
        return Finding("inconclusive", f"{text}; {why}", p)
    if status == "inconclusive" and latency.ratio.value > limit:
        text += f"; {pace.UNSURE}"
    return Finding(status, text, p)


def _size_gate(size: Size, limit: float | None) -> Iterator[Finding]:
    if limit is None:
        return
    status: Status = "pass" if size.ratio <= limit else "fail"
    yield Finding(status, f"size {size.ratio:.3f}x of FP32, at most {limit:g}x")


def _fusions(hit: ExpectationRecord) -> Iterator[Finding]:
    fused = f", {hit.there} fused by the exporter" if hit.there else ""
    text = f"{hit.rewrite} expected at {hit.expected} places, found at {hit.found} ({hit.applied} applied{fused})"
    if hit.found >= hit.expected:
        yield Finding("pass", text)
        if hit.found > hit.expected:
            yield Finding(None, f"{hit.rewrite} fits at more places than expected: expect_fusions may say {hit.found}")
        return
    yield Finding("fail", f"{text}; elsewhere: {'; '.join(hit.reasons) or 'nothing looks like what it forms'}")


def _fp32_speed(latency: Latency, noise: Noise) -> Finding:
    """Every rewrite was measured to be no slower, so it passes unless an estimate beyond the slack says otherwise."""
    text = f"latency {_times(latency.ratio)}, slower than stock only above {FP32_SLACK:g}x"
    found = _speed(latency, FP32_SLACK, noise, text)
    return replace(found, status="pass") if latency.ratio.value <= FP32_SLACK else found


def _gain(latency: Latency, size: Size, noise: Noise) -> Finding:
    """A reduced precision must be worth having: faster than FP32 beyond doubt, or smaller."""
    ratio = latency.ratio
    faster, smaller = ratio.high < 1, size.ratio < 1
    gains = [word for word, holds in (("faster", faster), ("smaller", smaller)) if holds]
    numbers = f"latency {_times(ratio)}, size {size.ratio:.3f}x"
    if gains:
        return Finding("pass", f"{' and '.join(gains)} than FP32: {numbers}")
    found = _speed(latency, 1.0, noise, numbers)
    if found.status == "fail":
        return replace(found, text=f"neither faster nor smaller than FP32: {found.text}")
    text = f"not smaller than FP32, and not shown to be faster: {found.text}"
    return replace(found, status="inconclusive", text=text)


def _times(ratio: Estimate) -> str:
    return f"{ratio.value:.3f}x of FP32 [{ratio.low:.3f}, {ratio.high:.3f}]"
