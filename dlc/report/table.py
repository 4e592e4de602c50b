"""The verdict table, as plain strings: what the terminal, Markdown and HTML all show."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from dlc.harness.ratios import spread
from dlc.manifest import (
    Accuracy,
    Agreement,
    Latency,
    Manifest,
    Memory,
    Reference,
    Simulation,
    Size,
    Status,
    VariantRecord,
    VerdictRecord,
)
from dlc.report import numbers

ORDER: tuple[Status, ...] = ("fail", "inconclusive", "not built", "pass")
"""From the status that most needs a reader to the one that least does."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a verdict's evidence; ``status`` is None for a remark that decides nothing."""

    status: Status | None
    text: str


@dataclass(frozen=True, slots=True)
class Headline:
    """The verdict on a whole compile: the worst of its variants, not counting those that could not be built."""

    status: Status
    summary: str


def headline(manifest: Manifest) -> Headline:
    """Sum up all verdicts; ``not built`` if nothing was."""
    counts = Counter(v.verdict.status for v in manifest.variants)
    built = [s for s in ORDER if s != "not built" and counts[s]]
    total = len(manifest.variants)
    noun = "variant" if total == 1 else "variants"
    parts = [f"{counts[s]} {_verb(s, counts[s])}" for s in ("pass", "fail", "inconclusive", "not built") if counts[s]]
    return Headline(built[0] if built else "not built", f"{total} {noun}: {', '.join(parts) or 'none'}")


def best(manifest: Manifest) -> VariantRecord | None:
    """Return the fastest variant that passes; without a latency, the smallest."""
    passing = [v for v in manifest.variants if v.verdict.status == "pass"]
    return min(passing, key=_cost, default=None)


def lines(verdict: VerdictRecord) -> list[Line]:
    """Read the evidence, whose lines begin ``pass:``, ``fail:``, ``inconclusive:`` or ``note:``."""
    return [_line(reason) for reason in verdict.reasons]


def verdict_rows(manifest: Manifest) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headers and one row per variant, after a row for the FP32 reference."""
    reference = manifest.reference
    name = reference.metric or "metric"
    headers = ("variant", name, "agreement", "latency ratio", "size", "peak memory", "verdict")
    return headers, [_reference_row(reference), *(_row(v) for v in manifest.variants)]


def _reference_row(reference: Reference) -> tuple[str, ...]:
    value = numbers.ABSENT if reference.value is None else numbers.metric(reference.value, reference.unit)
    return (
        "FP32 reference",
        value,
        numbers.ABSENT,
        f"1× = {numbers.milliseconds(reference.latency.median_ms)}",
        numbers.size(reference.size.bytes),
        numbers.size(reference.memory.peak_rss_bytes),
        "reference",
    )


def _row(variant: VariantRecord) -> tuple[str, ...]:
    return (
        variant.precision,
        metric_cell(variant.accuracy),
        agreement_cell(variant.agreement),
        latency_cell(variant.latency),
        size_cell(variant.size),
        memory_cell(variant.memory),
        variant.verdict.status,
    )


def metric_cell(accuracy: Accuracy | None) -> str:
    """Write the task metric with its interval."""
    return numbers.ABSENT if accuracy is None else numbers.metric(accuracy.value, accuracy.unit)


def agreement_cell(agreement: Agreement | None) -> str:
    """Write the share of equal classes, or the cosine similarity where there are no classes."""
    if agreement is None:
        return numbers.ABSENT
    if agreement.argmax is None:
        return f"cosine {numbers.cosine(agreement.cosine)}"
    return numbers.percent(agreement.argmax)


def latency_cell(latency: Latency | None) -> str:
    """Write the latency ratio with its interval."""
    return numbers.ABSENT if latency is None else numbers.ratio(latency.ratio)


def size_cell(on_disk: Size | None) -> str:
    """Write the bytes on disk and their ratio."""
    return numbers.ABSENT if on_disk is None else f"{numbers.size(on_disk.bytes)} ({on_disk.ratio:.3f}×)"


def memory_cell(memory: Memory | None) -> str:
    """Write the peak resident memory."""
    return numbers.ABSENT if memory is None else numbers.size(memory.peak_rss_bytes)


def noise_line(reference: Reference) -> str:
    """Say how far the baseline strays from itself, and how busy the machine was; empty if A against A was not run."""
    if not reference.again:
        return ""
    text = f"FP32 strays from a second session of itself by {numbers.percent(spread(reference.again), 1)} in a sitting"
    if reference.away is None:
        return text
    return f"{text}; for {numbers.percent(reference.away, 0)} of the time the CPU did something else"


def simulation_line(found: Simulation) -> str:
    """Say in a line how close the kernels come to the simulation."""
    if found.agreement is None:
        return found.note
    a = found.agreement
    same = "" if a.argmax is None else f", the same class in {a.argmax:.2%}"
    return f"simulation against kernels: SQNR {a.sqnr_db:.1f} dB{same} of {a.examples} examples" + (
        f"; {found.note}" if found.note else ""
    )


def _line(reason: str) -> Line:
    word, _, text = reason.partition(": ")
    status = next((s for s in ORDER if s == word), None)
    return Line(status, text) if status or word == "note" else Line(None, reason)


def _cost(variant: VariantRecord) -> tuple[float, float]:
    latency = variant.latency.ratio.value if variant.latency else float("inf")
    return latency, variant.size.ratio if variant.size else float("inf")


def _verb(status: Status, count: int) -> str:
    match status:
        case "pass":
            return "passes" if count == 1 else "pass"
        case "fail":
            return "fails" if count == 1 else "fail"
        case _:
            return status
