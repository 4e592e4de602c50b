"""The roofline: operations each second over operations for each byte, of variants and their costliest kernels.

    S. Williams, A. Waterman, D. Patterson, Roofline, Communications of the ACM 52 (4), 2009.

What a machine can do is the lower of two lines: its peak of arithmetic, and its bandwidth times the operations that a
byte is used for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dlc.manifest import KernelRecord, Latency, Manifest, Peaks, Work
from dlc.report import numbers
from dlc.report.svg import Anchor, Box, Picture, Scale, place, width_of

WIDTH, HEIGHT = 760.0, 420.0
PLOT = Box(78, 24, 662, 340)
NEAR = 16.0
"""Pixels up to which a name is seen to belong to its mark."""
SHORTEST = 5.0
"""Microseconds below which a kernel is not drawn: the profile counts whole ones."""
ROOM = 1.8


@dataclass(frozen=True, slots=True)
class Spot:
    """A model or a kernel. ``series`` None: the reference."""

    name: str
    series: int | None
    ops: int
    bytes: int
    seconds: float

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.ops / self.seconds

    @property
    def intensity(self) -> float:
        """Operations for each byte."""
        return self.ops / self.bytes


@dataclass(frozen=True, slots=True)
class Roofline:
    """The picture, a row a model, and a row a kernel, all as text; ``missing``: models without a profile."""

    picture: Markup
    rows: tuple[tuple[str, ...], ...]
    kernels: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]
    missing: tuple[str, ...]
    uncounted: tuple[str, ...]


Model = tuple[str, int | None, Work, Latency]


def roofline(manifest: Manifest) -> Roofline | None:
    """Draw the picture; None if no model was profiled beside this machine's peaks."""
    models, peaks = list(_models(manifest)), manifest.peaks
    drawn = [spot for each in models if (spot := _model(each)) is not None]
    if peaks is None or not drawn:
        return None
    kernels = [s for name, series, work, _ in models for k in work.kernels if (s := _kernel(name, series, k))]
    known = {name for name, *_ in models}
    return Roofline(
        _draw(peaks, drawn, kernels),
        tuple(_row(each, peaks) for each in models),
        tuple((name, tuple(_kernel_row(k, peaks) for k in work.kernels)) for name, _, work, _ in models),
        tuple(v.precision for v in manifest.variants if v.precision not in known),
        tuple(sorted({op for _, _, work, _ in models for op in work.uncounted})),
    )


def _models(manifest: Manifest) -> Iterator[Model]:
    if (work := manifest.reference.work) is not None:
        yield "FP32 reference", None, work, manifest.reference.latency
    for series, variant in enumerate(manifest.variants):
        if variant.work is not None and variant.latency is not None:
            yield variant.precision, series, variant.work, variant.latency


def _model(model: Model) -> Spot | None:
    name, series, work, latency = model
    ops = work.float_ops + work.integer_ops
    return Spot(name, series, ops, work.bytes, latency.median_ms / 1e3) if ops and work.bytes else None


def _kernel(model: str, series: int | None, kernel: KernelRecord) -> Spot | None:
    if not kernel.ops or not kernel.bytes or kernel.microseconds < SHORTEST:
        return None
    name = f"{model}, {kernel.op} {numbers.shorten(kernel.node)}"
    return Spot(name, series, kernel.ops, kernel.bytes, kernel.microseconds / 1e6)


def _draw(peaks: Peaks, models: Sequence[Spot], kernels: Sequence[Spot]) -> Markup:
    x, y = _scales(peaks, [*models, *kernels])
    picture = Picture(WIDTH, HEIGHT, f"Roofline of {', '.join(m.name for m in models)}")
    taken = _frame(picture, x, y, peaks)
    for each in kernels:
        picture.mark(x(each.intensity), y(each.rate), each.series, _tip(each), key=True)
        taken.append(Box(x(each.intensity) - 5, y(each.rate) - 5, 10, 10))
    for each in models:
        picture.mark(x(each.intensity), y(each.rate), each.series, _tip(each))
        taken.append(Box(x(each.intensity) - 9, y(each.rate) - 9, 18, 18))
    for each in models:
        _label(picture, each.name, x(each.intensity), y(each.rate), taken)
    return picture.markup()


def _scales(peaks: Peaks, spots: Sequence[Spot]) -> tuple[Scale, Scale]:
    top = max(peaks.float_ops, peaks.integer_ops, *(s.rate for s in spots))
    left = min(peaks.float_ops / peaks.cache_bytes, *(s.intensity for s in spots)) / ROOM
    right = max(peaks.integer_ops / peaks.bytes, *(s.intensity for s in spots)) * ROOM
    bottom = min(peaks.float_ops / 8, *(s.rate for s in spots)) / ROOM
    return (
        Scale(left, right, PLOT.left, PLOT.left + PLOT.width, log=True),
        Scale(bottom, top * ROOM, PLOT.top + PLOT.height, PLOT.top, log=True),
    )


def _frame(picture: Picture, x: Scale, y: Scale, peaks: Peaks) -> list[Box]:
    """Draw axes and roofs; return what labels must not cover."""
    right, bottom = PLOT.left + PLOT.width, PLOT.top + PLOT.height
    for tick in x.ticks():
        picture.line(x(tick), PLOT.top, x(tick), bottom, "grid")
        picture.text(x(tick), bottom + 18, f"{tick:g}", "tick", "middle")
    for tick in y.ticks():
        picture.line(PLOT.left, y(tick), right, y(tick), "grid")
        picture.text(PLOT.left - 8, y(tick) + 4, numbers.si(tick, ""), "tick", "end")
    picture.text(PLOT.left - 70, PLOT.top - 8, "↑ operations a second", "axis")
    middle = PLOT.left + PLOT.width / 2
    picture.text(middle, HEIGHT - 12, "operations for each byte read or written →", "axis", "middle")
    taken: list[Box] = []
    roof = max(peaks.float_ops, peaks.integer_ops)
    slopes: tuple[tuple[float, str, str, Anchor], ...] = (
        (peaks.bytes, "memory", "gate", "start"), (peaks.cache_bytes, "caches", "reference", "end"),
    )  # fmt: skip
    for rate, words, style, anchor in slopes:
        taken += _slope(picture, (x, y), (rate, roof), f"{words} {numbers.si(rate, 'B/s')}", style, anchor)
    for ops, words in ((peaks.float_ops, "float32 peak"), (peaks.integer_ops, "8-bit integer peak")):
        start = max(x.low, ops / max(peaks.bytes, peaks.cache_bytes))
        picture.line(x(start), y(ops), right, y(ops), "gate")
        text = f"{words} {numbers.si(ops, 'op/s')}"
        picture.text(right - 6, y(ops) - 5, text, "note halo", "end")
        taken.append(Box(x(start), y(ops) - 2, right - x(start), 4))
        taken.append(Box(right - 6 - width_of(text), y(ops) - 18, width_of(text), 16))
    return taken


def _slope(
    picture: Picture, axes: tuple[Scale, Scale], limits: tuple[float, float], words: str, style: str, anchor: Anchor
) -> list[Box]:
    """Draw a bandwidth from where it enters the picture to the highest roof, named below it, or above to its left."""
    (x, y), (rate, roof) = axes, limits
    first, last = max(x.low, y.low / rate), min(x.high, roof / rate)
    if first >= last:
        return []
    picture.line(x(first), y(rate * first), x(last), y(rate * last), style)
    at = first * (last / first) ** (0.04 if anchor == "start" else 0.7)
    edge, foot = (x(at) + 8, y(rate * at) + 4) if anchor == "start" else (x(at) - 8, y(rate * at))
    picture.text(edge, foot, words, "note halo", anchor)
    along = [Box(x(s) - 5, y(rate * s) - 5, 10, 10) for s in (first * (last / first) ** (k / 40) for k in range(41))]
    return [*along, Box(edge if anchor == "start" else edge - width_of(words), foot - 12, width_of(words), 16)]


def _label(picture: Picture, name: str, at_x: float, at_y: float, taken: list[Box]) -> None:
    """Write a name beside its mark, and a line between them where something stood in the way."""
    wide, high = width_of(name) + 4, 16.0
    spots = [(at_x + 12, at_y - 8), (at_x - wide - 12, at_y - 8)]
    for reach in (14, 26, 40, 56):
        spots += [(left, at_y + side) for left in (at_x - wide / 2, at_x + 8, at_x - wide - 8)
                  for side in (reach - 6, -reach - high + 6)]  # fmt: skip
    box = place((wide, high), spots, taken, PLOT)
    taken.append(box)
    near_x = min(max(at_x, box.left), box.left + wide)
    near_y = min(max(at_y, box.top + 2), box.top + high - 2)
    if math.dist((at_x, at_y), (near_x, near_y)) > NEAR:
        picture.line(at_x, at_y, near_x, near_y, "leader")
    picture.text(box.left + 2, box.top + 12, name, "label halo")


def _tip(spot: Spot) -> str:
    moved = numbers.si(spot.bytes / spot.seconds, "B/s")
    return f"{spot.name}: {numbers.si(spot.rate, 'op/s')}, {moved}, {spot.intensity:.3g} operations a byte"


def _row(model: Model, peaks: Peaks) -> tuple[str, ...]:
    name, _, work, latency = model
    seconds = latency.median_ms / 1e3
    ops = work.float_ops + work.integer_ops
    busy = work.float_ops / peaks.float_ops + work.integer_ops / peaks.integer_ops
    whole = numbers.percent(work.integer_ops / ops, 0) if ops else numbers.ABSENT
    return (
        name, numbers.si(ops, "op"), whole, numbers.size(work.bytes), _intensity(ops, work.bytes),
        numbers.si(ops / seconds, "op/s"), numbers.percent(busy / seconds, 0),
        numbers.si(work.bytes / seconds, "B/s"), numbers.percent(work.bytes / seconds / peaks.bytes, 0),
    )  # fmt: skip


def _kernel_row(kernel: KernelRecord, peaks: Peaks) -> tuple[str, ...]:
    ops, moved, seconds = kernel.ops, kernel.bytes, max(kernel.microseconds, 1.0) / 1e6
    peak = peaks.integer_ops if kernel.integer else peaks.float_ops
    return (
        f"{kernel.op} {numbers.shorten(kernel.node)}",
        f"{kernel.microseconds:.0f} µs",
        numbers.si(ops / seconds, "op/s") if ops else numbers.ABSENT,
        numbers.percent(ops / seconds / peak, 0) if ops else numbers.ABSENT,
        numbers.si(moved / seconds, "B/s") if moved else numbers.ABSENT,
        numbers.percent(moved / seconds / peaks.bytes, 0) if moved else numbers.ABSENT,
        _intensity(ops or 0, moved or 0),
    )


def _intensity(ops: int, moved: int) -> str:
    return f"{ops / moved:.3g}" if ops and moved else numbers.ABSENT
