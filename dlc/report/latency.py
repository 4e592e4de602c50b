"""The picture of latency distributions: one histogram a model, on one axis, all from the same interleaved runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dlc.manifest import Latency, Manifest
from dlc.report import numbers
from dlc.report.svg import COLOURS, Picture, Scale, tick_label

WIDTH, ROW, TOP, BOTTOM = 760.0, 62.0, 12.0, 44.0
LEFT, RIGHT = 120.0, 556.0
BINS = 109
SHOWN = 0.95
"""Share of each model's runs that the axis spans; the slower ones are counted at its end."""
LOG_FROM = 6


@dataclass(frozen=True, slots=True)
class Row:
    """One model's runs. ``series`` is None for the reference."""

    name: str
    latency: Latency
    series: int | None


def distributions(manifest: Manifest) -> Markup:
    """Draw the picture: the FP32 reference first, then each variant that was timed."""
    rows = [Row("FP32 reference", manifest.reference.latency, None)]
    rows += [Row(v.precision, v.latency, i) for i, v in enumerate(manifest.variants) if v.latency]
    bottom = TOP + ROW * len(rows)
    x = _scale(rows)
    picture = Picture(WIDTH, bottom + BOTTOM, f"Latency of {', '.join(r.name for r in rows)}")
    ticks = x.ticks()
    for tick in ticks:
        picture.line(x(tick), TOP, x(tick), bottom, "grid")
        picture.text(x(tick), bottom + 18, tick_label(tick, [0.0, tick] if x.log else ticks), "tick", "middle")
    scale = "ms per run, logarithmic" if x.log else "ms per run"
    picture.text((LEFT + RIGHT) / 2, bottom + 36, f"← faster · {scale} · slower →", "axis", "middle")
    for index, row in enumerate(rows):
        _draw(picture, row, x, TOP + ROW * (index + 1))
    return picture.markup()


def _scale(rows: Sequence[Row]) -> Scale:
    low = min(min((*r.latency.samples_ms, r.latency.p10_ms or math.inf)) for r in rows)
    high = max(max(_slow_end(r.latency), r.latency.p90_ms or 0.0) for r in rows)
    if high > LOG_FROM * low > 0:
        return Scale(low / 1.1, high * 1.1, LEFT, RIGHT, log=True)
    pad = 0.03 * (high - low) or 0.05 * high or 1.0
    return Scale(max(low - pad, 0.0), high + pad, LEFT, RIGHT)


def _slow_end(latency: Latency) -> float:
    ranked = sorted(latency.samples_ms) or [latency.p90_ms or latency.median_ms]
    return ranked[min(int(SHOWN * len(ranked)), len(ranked) - 1)]


def _draw(picture: Picture, row: Row, x: Scale, base: float) -> None:
    colour = "ref" if row.series is None else f"s{row.series % COLOURS}"
    latency, floor = row.latency, base - 14
    inside = [s for s in latency.samples_ms if s <= x.high]
    beyond = len(latency.samples_ms) - len(inside)
    for hill in _hills(inside, x, floor, ROW - 20):
        picture.path(hill, f"area {colour}", closed=True)
    middle_80 = f"no percentiles of {latency.runs} runs"
    if latency.p10_ms is not None and latency.p90_ms is not None:
        picture.line(x(latency.p10_ms), floor + 5, x(latency.p90_ms), floor + 5, f"spread {colour}")
        p10, p90 = (numbers.significant(p, 3) for p in (latency.p10_ms, latency.p90_ms))
        middle_80 = f"middle 80 %: {p10}–{p90} ms"
    tip = f"{row.name}: median {numbers.milliseconds(latency.median_ms)}"
    middle = x(latency.median_ms)
    picture.path([(middle, base - ROW + 4), (middle, floor + 9)], "median", tip=tip)
    if row.series is not None:
        picture.mark(10, floor - 10, row.series)
    picture.text(0 if row.series is None else 24, floor - 6, row.name, "label")
    picture.text(RIGHT + 12, floor - 18, f"median {numbers.milliseconds(latency.median_ms)}", "label")
    picture.text(RIGHT + 12, floor - 3, middle_80, "tick")
    if beyond:
        slowest = numbers.significant(max(latency.samples_ms), 3)
        picture.text(RIGHT + 12, floor + 11, f"{beyond} beyond, up to {slowest} ms →", "tick")


def _hills(samples: Sequence[float], x: Scale, floor: float, height: float) -> Iterator[list[tuple[float, float]]]:
    """Yield the outlines of a histogram, one a run of non-empty bins; the tallest bar has ``height``."""
    wide = (x.end - x.start) / BINS
    counts = Counter(min(int((x(sample) - x.start) / wide), BINS - 1) for sample in samples)
    hill: list[tuple[float, float]] = []
    for i in range(BINS + 1):
        left = x.start + i * wide
        if counts[i]:
            top = floor - height * counts[i] / max(counts.values())
            hill += [*([] if hill else [(left, floor)]), (left, top), (left + wide, top)]
        elif hill:
            yield [*hill, (left, floor)]
            hill = []
