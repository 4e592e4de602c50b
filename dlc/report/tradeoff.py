"""The picture of accuracy, latency and size: a point a variant on a disc of its size, the FP32 lines, the gates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dlc.manifest import Estimate, Manifest, VariantRecord
from dlc.report import numbers
from dlc.report.svg import COLOURS, Box, Picture, Scale, place, tick_label, width_of
from dlc.types import Bytes

WIDTH, HEIGHT = 760.0, 422.0
PLOT = Box(70, 52, 670, 314)
BELOW_GATE = 9
"""Depth of the picture under the gate, in multiples of what the gate allows; what is lower is drawn at the edge."""
DISC, LARGEST_DISC = 22.0, 48.0
"""Radius of the disc of a variant as large as FP32, and of the largest that is drawn, in pixels."""
KEY = 14.0
"""Width of the small marker before a label: where points crowd, it tells whose label it is."""
LOG_FROM = 5
"""Spread of latencies from which the axis is logarithmic."""


@dataclass(frozen=True, slots=True)
class Point:
    """One variant. ``x``: latency ratio; ``y``: share of FP32's metric, or cosine similarity; ``size``: of FP32's."""

    name: str
    series: int
    x: Estimate
    y: Estimate
    status: str
    size: float
    bytes: Bytes

    def beats(self, other: Point) -> bool:
        """Whether it is no worse than another in accuracy, latency and size, as measured, and better in one."""
        mine, theirs = ((-p.y.value, p.x.value, p.size) for p in (self, other))
        return all(a <= b for a, b in zip(mine, theirs, strict=True)) and mine != theirs


@dataclass(frozen=True, slots=True)
class Axes:
    """Both scales, and the gates to draw on them; None: not gated."""

    x: Scale
    y: Scale
    gate: float | None
    max_ratio: float | None
    by_metric: bool

    def written(self, level: float) -> str:
        """Write a value of the upright axis."""
        return numbers.percent(level) if self.by_metric else numbers.cosine(level)

    def tick(self, level: float) -> str:
        """Write a tick of the upright axis."""
        ticks, factor, unit = self.y.ticks(), *((100, " %") if self.by_metric else (1, ""))
        return tick_label(factor * level, [factor * t for t in ticks]) + unit


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """The picture, what its upright axis shows, the variants that it cannot show, and a row of text a variant."""

    picture: Markup
    closeness: str
    missing: tuple[str, ...]
    log: bool
    rows: tuple[tuple[str, ...], ...]


def tradeoff(manifest: Manifest) -> Tradeoff | None:
    """Draw the picture; None if no variant has both a latency and an accuracy."""
    by_metric = any(v.accuracy for v in manifest.variants)
    points = [p for i, v in enumerate(manifest.variants) if (p := _point(v, i, by_metric=by_metric))]
    if not points:
        return None
    gate = manifest.gates.get("retention" if by_metric else "cosine")
    if by_metric and manifest.gates.get("max_drop") is not None:
        gate = None  # a distance, which is no place on an axis of shares
    max_ratio = manifest.gates.get("max_latency_ratio")
    axes = Axes(*_scales(points, gate, max_ratio), gate, max_ratio, by_metric)
    closeness = f"share of FP32's {manifest.reference.metric} kept" if by_metric else "cosine similarity to FP32"
    title = f"Accuracy, latency and size: {', '.join(p.name for p in points)}"
    picture = Picture(WIDTH, HEIGHT, title)
    taken = [*_frame(picture, axes, closeness), _disc_key(picture)]
    taken += [_disc(picture, p, axes) for p in sorted(points, key=lambda p: -p.size)]
    for p in points:
        taken += _bars(picture, p, axes)
    for p in points:
        tip = f"{p.name}: latency {numbers.ratio(p.x)}, {closeness} {axes.written(p.y.value)}, {_sized(p)}, {p.status}"
        picture.mark(axes.x(p.x.value), axes.y(p.y.value), p.series, tip)
        _label(picture, p, axes, taken)
    _line_labels(picture, axes, taken)
    shown = {p.name for p in points}
    missing = tuple(v.precision for v in manifest.variants if v.precision not in shown)
    return Tradeoff(picture.markup(), closeness, missing, axes.x.log, tuple(_row(p, points, axes) for p in points))


def _point(variant: VariantRecord, series: int, *, by_metric: bool) -> Point | None:
    if variant.latency is None or variant.size is None:
        return None
    if by_metric and variant.accuracy:
        y = variant.accuracy.retention
    elif not by_metric and variant.agreement:
        cosine = variant.agreement.cosine
        y = Estimate(value=cosine, low=cosine, high=cosine)
    else:
        return None
    size = variant.size
    return Point(variant.precision, series, variant.latency.ratio, y, variant.verdict.status, size.ratio, size.bytes)


def _row(point: Point, points: Sequence[Point], axes: Axes) -> tuple[str, ...]:
    better = [p.name for p in points if p.beats(point)]
    front = f"no: {', '.join(better)} {'is' if len(better) == 1 else 'are'} better" if better else "yes"
    ratio = f"{point.x.value:.3f}×"
    return point.name, axes.written(point.y.value), ratio, numbers.size(point.bytes), f"{point.size:.3f}×", front


def _sized(point: Point) -> str:
    return f"{numbers.size(point.bytes)} ({point.size:.3f}× of FP32)"


def _radius(size: float) -> float:
    """Pixels, so that the area is the size."""
    return min(DISC * math.sqrt(size), LARGEST_DISC)


def _disc(picture: Picture, p: Point, axes: Axes) -> Box:
    at_x, at_y, radius = axes.x(p.x.value), axes.y(p.y.value), _radius(p.size)
    picture.disc(at_x, at_y, radius, p.series, f"{p.name}: {_sized(p)}")
    return Box(at_x - 0.7 * radius, at_y - 0.7 * radius, 1.4 * radius, 1.4 * radius)


def _disc_key(picture: Picture) -> Box:
    """Say what the discs are, above the plot, beside one of FP32's size."""
    words = "area of a disc: size; this is FP32's"
    left, middle = PLOT.left + PLOT.width - width_of(words), PLOT.top - DISC - 2
    picture.text(left, middle + 4, words, "note")
    picture.disc(left - DISC - 6, middle, DISC, None)
    return Box(left - 2 * DISC - 6, middle - DISC, 2 * DISC + 6 + width_of(words), 2 * DISC)


def _scales(points: Sequence[Point], gate: float | None, max_ratio: float | None) -> tuple[Scale, Scale]:
    left = min(1.0, max_ratio or 1.0, *(p.x.low for p in points))
    right = max(1.0, max_ratio or 1.0, *(p.x.high for p in points))
    right_edge, bottom_edge = PLOT.left + PLOT.width, PLOT.top + PLOT.height
    if right / max(left, 1e-9) > LOG_FROM:
        x = Scale(left / 1.25, right * 1.25, PLOT.left, right_edge, log=True)
    else:
        x = Scale(max(0.0, left - 0.15 * (right - left) - 0.05), right + 0.15 * (right - left) + 0.05,
                  PLOT.left, right_edge)  # fmt: skip
    line = gate if gate is not None else 1.0
    floor = line - BELOW_GATE * max(1 - line, 1e-3)
    low = min(line, *(max(p.y.low, floor) for p in points))
    high = max(1.0, *(p.y.high for p in points))
    pad = 0.12 * (high - low) + 1e-6
    return x, Scale(low - pad, high + pad, bottom_edge, PLOT.top)


def _frame(picture: Picture, axes: Axes, closeness: str) -> list[Box]:
    """Draw axes, gates and reference lines; return what labels must not cover."""
    x, y, gate, max_ratio = axes.x, axes.y, axes.gate, axes.max_ratio
    right, bottom = PLOT.left + PLOT.width, PLOT.top + PLOT.height
    if gate is not None:
        edge = right if max_ratio is None else x(max_ratio)
        picture.rect(Box(PLOT.left, PLOT.top, edge - PLOT.left, y(gate) - PLOT.top), "passes")
    across = x.ticks()
    for tick in across:
        picture.line(x(tick), PLOT.top, x(tick), bottom, "grid")
        picture.text(x(tick), bottom + 18, f"{tick_label(tick, [0.0, tick] if x.log else across)}×", "tick", "middle")
    for tick in y.ticks():
        picture.line(PLOT.left, y(tick), right, y(tick), "grid")
        picture.text(PLOT.left - 8, y(tick) + 4, axes.tick(tick), "tick", "end")
    picture.text(PLOT.left - 58, PLOT.top - 10, f"↑ {closeness}", "axis")
    middle = PLOT.left + PLOT.width / 2
    picture.text(middle, HEIGHT - 12, "← faster · latency ÷ FP32 latency · slower →", "axis", "middle")
    taken = []
    for level, style in ((1.0, "reference"), (gate, "gate")):
        if level is not None:
            picture.line(PLOT.left, y(level), right, y(level), style)
            taken.append(Box(PLOT.left, y(level) - 2, PLOT.width, 4))
    for times, style in ((1.0, "reference"), (max_ratio, "gate")):
        if times is not None:
            picture.line(x(times), PLOT.top, x(times), bottom, style)
            taken.append(Box(x(times) - 2, PLOT.top, 4, PLOT.height))
    return taken


def _line_labels(picture: Picture, axes: Axes, taken: list[Box]) -> None:
    """Write what each line means, along it where nothing else is drawn."""
    x, y = axes.x, axes.y
    same = "as accurate as FP32" if axes.by_metric else "the outputs of FP32"
    for level, words, style in ((1.0, same, "note"), (axes.gate, "gate", "note gate-label")):
        if level is None:
            continue
        text = f"{words} {axes.written(level)}" if words == "gate" else words
        wide = width_of(text)
        lefts = [PLOT.left + PLOT.width - 8 - wide - k * (PLOT.width - wide - 16) / 20 for k in range(21)]
        tops = (y(level) + 4, y(level) - 20) if words == "gate" else (y(level) - 20, y(level) + 4)
        _write(picture, text, style, [(left, top) for top in tops for left in lefts], taken)
    for times, words, style in ((1.0, "as fast as FP32", "note"), (axes.max_ratio, "latency gate", "note gate-label")):
        if times is None:
            continue
        wide, low = width_of(words), PLOT.top + PLOT.height - 20
        spots = [(left, top) for top in (low, PLOT.top + 4) for left in (x(times) + 6, x(times) - wide - 6)]
        _write(picture, words, style, spots, taken)


def _write(picture: Picture, words: str, style: str, spots: Sequence[tuple[float, float]], taken: list[Box]) -> None:
    box = place((width_of(words), 16.0), spots, taken, PLOT)
    taken.append(box)
    picture.text(box.left, box.top + 12, words, style)


def _bars(picture: Picture, p: Point, axes: Axes) -> list[Box]:
    """Draw a point's intervals; return what they and its mark cover."""
    x, y = axes.x, axes.y
    at_x, at_y, colour = x(p.x.value), y(p.y.value), f"bar s{p.series % COLOURS}"
    picture.line(x(p.x.low), at_y, x(p.x.high), at_y, colour)
    picture.line(at_x, y(p.y.low), at_x, y(p.y.high), colour)
    across = Box(x(p.x.low), at_y - 2, x(p.x.high) - x(p.x.low), 4)
    upright = Box(at_x - 2, y(p.y.high), 4, y(p.y.low) - y(p.y.high))
    return [across, upright, Box(at_x - 9, at_y - 9, 18, 18)]


def _label(picture: Picture, p: Point, axes: Axes, taken: list[Box]) -> None:
    x, y = axes.x, axes.y
    at_x, at_y, tip, foot = x(p.x.value), y(p.y.value), y(p.y.high), y(p.y.low)
    words = f"{p.name}: {p.status}" + (f" ↓ {axes.written(p.y.value)}" if p.y.value < y.low else "")
    wide, high = KEY + width_of(words) + 10, 16.0
    spots = [(at_x + 12, at_y - 8), (at_x - wide / 2, tip - high - 2), (at_x - wide / 2, foot + 2)]
    for reach in (12, 22, 34, 48):
        rows = (at_y - 8, at_y - high - reach + 6, at_y + reach - 6)
        spots += [(left, top) for left in (at_x + reach - 4, at_x - reach + 4 - wide) for top in rows]
        spots += [(at_x - wide / 2, at_y - high - reach), (at_x - wide / 2, at_y + reach)]
    box = place((wide, high), spots, taken, PLOT)
    taken.append(box)
    picture.mark(box.left + KEY / 2, box.top + 8, p.series, key=True)
    picture.text(box.left + KEY, box.top + 12, words, "label halo")
