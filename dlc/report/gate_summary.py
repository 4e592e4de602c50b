"""The outcome of a gate as Markdown: a comment on a pull request that says what broke, since when, and why."""

from __future__ import annotations

from dlc.gate.flow import Outcome
from dlc.gate.observation import VariantSeen
from dlc.manifest import Estimate
from dlc.report import numbers
from dlc.report.delivery import compressed_cell
from dlc.report.markdown import render

HEADERS = ("variant", "metric", "latency", "size", "peak memory")
DETAILS = ("variant", "p50", "p90", "p99", "cold start", "first call", "size", "compressed")
RATE = "examples/s"


def render_gate_summary(outcome: Outcome) -> str:
    """Render an outcome; what comes from a user's model is escaped."""
    counts = [(s, sum(line.status == s for line in outcome.lines)) for s in ("fail", "inconclusive", "pass")]
    decided = sum(n for _, n in counts)
    words = {"fail": "failed", "inconclusive": "inconclusive", "pass": "passed"}
    return render(
        "gate.md.j2", o=outcome, now=outcome.now, before=outcome.before, blames=outcome.blame_of(),
        bad=[line for line in outcome.lines if line.status in ("fail", "inconclusive")],
        warned=[line for line in outcome.lines if line.warns],
        counted=f"{decided} gates: " + ", ".join(f"{n} {words[s]}" for s, n in counts if n),
        headers=HEADERS, rows=[_row(v, outcome) for v in outcome.now.variants],
        details=_details(outcome), altered=_altered(outcome), slices=_slices(outcome),
        scored=[v.precision for v in outcome.now.variants if v.score],
        floor=numbers.percent(_floor(outcome), 1),
    )  # fmt: skip


def _row(variant: VariantSeen, outcome: Outcome) -> tuple[str, ...]:
    timing, earlier = variant.timing, None
    if outcome.before is not None:
        earlier = outcome.before.variant(variant.precision)
    score, then = variant.score, earlier.score if earlier else None
    metric = numbers.ABSENT if score is None else numbers.metric(score.value, score.unit)
    ratio = "1×" if variant.precision == outcome.now.reference else numbers.ratio(timing.ratio)
    return (
        variant.precision,
        metric + _since(score.value if score else None, then.value if then else None),
        ratio + _since(timing.ratio, earlier.timing.ratio if earlier else None, digits=3),
        _size(variant, earlier),
        numbers.size(min(variant.memory.peak_bytes)),
    )


def _details(outcome: Outcome) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headers and rows of the table that unfolds; it has throughput where that was measured."""
    rates = [v.timing.per_second for v in outcome.now.variants]
    rows = [_detail(v) for v in outcome.now.variants]
    if not any(rates):
        return DETAILS, rows
    rows = [
        (*row, numbers.ABSENT if r is None else numbers.significant(r, 4)) for row, r in zip(rows, rates, strict=True)
    ]
    return (*DETAILS, RATE), rows


def _detail(variant: VariantSeen) -> tuple[str, ...]:
    timing = variant.timing
    return (
        variant.precision,
        *map(numbers.milliseconds, (timing.p50_ms, timing.p90_ms, timing.p99_ms, timing.load_ms, timing.first_ms)),
        numbers.size(variant.size.bytes),
        compressed_cell(variant.size),
    )  # fmt: skip


def _altered(outcome: Outcome) -> list[str]:
    """Name the variants whose files are not the baseline's."""
    before = outcome.before
    return [
        v.precision for v in outcome.now.variants
        if before is not None and (then := before.variant(v.precision)) is not None and then.files != v.files
    ]  # fmt: skip


def _slices(outcome: Outcome) -> list[tuple[str, ...]]:
    """Return a row a slice: its name, its examples, and each variant's metric there, with what it was."""
    columns = []
    for variant in outcome.now.variants:
        earlier = outcome.before.variant(variant.precision) if outcome.before is not None else None
        then = {s.name: s.value for s in earlier.score.slices} if earlier and earlier.score else {}
        if variant.score is not None:
            columns.append([(s, _on_slice(s.value, then.get(s.name))) for s in variant.score.slices])
    return [
        (each[0][0].name, str(each[0][0].examples), *(text for _, text in each)) for each in zip(*columns, strict=True)
    ]


def _on_slice(now: float | None, then: float | None) -> str:
    if now is None:
        return numbers.ABSENT
    was = "" if then is None or f"{then:.2f}" == f"{now:.2f}" else f" (was {then:.2f})"
    return f"{now:.2f}{was}"


def _size(variant: VariantSeen, earlier: VariantSeen | None) -> str:
    now = numbers.size(variant.size.bytes)
    changed = earlier is not None and earlier.size.bytes != variant.size.bytes
    return f"{now} (was {numbers.size(earlier.size.bytes)})" if changed and earlier else now


def _since(now: Estimate | None, then: Estimate | None, digits: int = 2) -> str:
    """Say what it was, where the printed number differs."""
    if now is None or then is None:
        return ""
    a, b = (f"{e.value:.{digits}f}" for e in (then, now))
    return f" (was {a})" if a != b else ""


def _floor(outcome: Outcome) -> float:
    from dlc.harness.ratios import spread

    return spread(outcome.now.again)
