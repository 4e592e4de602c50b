"""The picture of a memory plan: each buffer a rectangle, over the steps it is alive, at the offset it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dlc.manifest import Lifetime, Memory
from dlc.report import numbers
from dlc.report.svg import Box, Picture, Scale, tick_label
from dlc.types import Bytes, Step

WIDTH, HEIGHT = 760.0, 330.0
PLOT = Box(74, 26, 520, 254)
NAMED = 8
"""Buffers that the table under a picture names: of those alive at the peak the largest, then of the rest."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A picture of one plan, the largest buffers in it, and what was left out."""

    picture: Markup
    peak_step: Step
    peak_bytes: Bytes
    steps: int
    buffers: int
    named: tuple[Lifetime, ...]
    capped: str


def plan(memory: Memory | None, lifetimes: Sequence[Lifetime], drawn: int) -> Plan:
    """Draw a plan that has at least one buffer, but no more than ``drawn`` rectangles."""
    step, live = peak(lifetimes)
    ranked = sorted(lifetimes, key=lambda b: (not b.first <= step < b.last, -b.size, b.first, b.offset, b.name))
    named, rest = ranked[:NAMED], ranked[NAMED:]
    shown = named + sorted(rest, key=lambda b: -b.size * (b.last - b.first))[: max(drawn - NAMED, 0)]
    picture = Picture(WIDTH, HEIGHT, f"Memory plan of {len(lifetimes)} buffers; peak at step {step}")
    steps = max(b.last for b in lifetimes)
    top = max(1, (memory and memory.arena_bytes) or 0, *(b.offset + b.size for b in lifetimes))
    x = Scale(0, max(steps, 1), PLOT.left, PLOT.left + PLOT.width)
    y = Scale(0, top * 1.04, PLOT.top + PLOT.height, PLOT.top)
    _axes(picture, x, y)
    _peak(picture, x, step, live)
    for buffer in sorted(shown, key=lambda b: (b.first, b.offset, b.name)):
        style = "buffer alive" if buffer.first <= step < buffer.last else "buffer"
        picture.rect(_box(buffer, x, y), f"{style} big" if buffer in named else style, _tip(buffer))
    _edges(picture, x, step)
    _bounds(picture, y, memory, top)
    _numbers(picture, named, x, y)
    return Plan(picture.markup(), step, live, steps, len(lifetimes), tuple(named), _capped(shown, lifetimes))


def peak(lifetimes: Sequence[Lifetime]) -> tuple[Step, Bytes]:
    """Return the first step with the most live bytes, and those bytes."""
    changes: dict[Step, Bytes] = {}
    for buffer in lifetimes:
        changes[buffer.first] = changes.get(buffer.first, 0) + buffer.size
        changes[buffer.last] = changes.get(buffer.last, 0) - buffer.size
    live, best = 0, (0, 0)
    for step in sorted(changes):
        live += changes[step]
        if live > best[1]:
            best = (step, live)
    return best


def _axes(picture: Picture, x: Scale, y: Scale) -> None:
    bottom, right = PLOT.top + PLOT.height, PLOT.left + PLOT.width
    power = min(int(y.high).bit_length() - 1, 39) // 10
    unit, suffix = 1024**power, ("B", "KiB", "MiB", "GiB")[power]
    heights = Scale(0, y.high / unit, y.start, y.end)
    up = heights.ticks(5)
    for tick in up:
        picture.line(PLOT.left, heights(tick), right, heights(tick), "grid")
        picture.text(PLOT.left - 8, heights(tick) + 4, f"{tick_label(tick, up)} {suffix}", "tick", "end")
    across = sorted({round(t) for t in x.ticks(8)})
    for tick in across:
        picture.line(x(tick), bottom, x(tick), bottom + 4, "grid")
        picture.text(x(tick), bottom + 18, str(tick), "tick", "middle")
    picture.text(PLOT.left + PLOT.width / 2, HEIGHT - 10, "step (order of execution) →", "axis", "middle")
    picture.text(PLOT.left - 66, PLOT.top - 10, "↑ offset", "axis")


def _column(x: Scale, step: Step) -> tuple[float, float]:
    return x(step), max(x(step + 1), x(step) + 2)


def _edges(picture: Picture, x: Scale, step: Step) -> None:
    """Draw the sides of the peak's column over the buffers, which cover it."""
    for side in _column(x, step):
        picture.line(side, PLOT.top, side, PLOT.top + PLOT.height, "peak-edge")


def _peak(picture: Picture, x: Scale, step: Step, live: Bytes) -> None:
    left, right = _column(x, step)
    picture.rect(Box(left, PLOT.top, right - left, PLOT.height), "peak")
    words = f"peak: step {step}, {numbers.size(live)} alive"
    half = 3.3 * len(words)
    middle = min(max((left + right) / 2, PLOT.left + half), PLOT.left + PLOT.width - half)
    picture.text(middle, PLOT.top - 10, words, "label", "middle")


def _bounds(picture: Picture, y: Scale, memory: Memory | None, top: Bytes) -> None:
    right = PLOT.left + PLOT.width
    arena = top if memory is None or memory.arena_bytes is None else memory.arena_bytes
    picture.line(PLOT.left, y(arena), right + 8, y(arena), "arena")
    picture.text(right + 12, y(arena) + 4, f"arena {numbers.size(arena)}", "label")
    if memory is None or memory.lower_bound_bytes is None:
        return
    bound = memory.lower_bound_bytes
    picture.line(PLOT.left, y(bound), right + 8, y(bound), "bound")
    baseline = max(y(bound) + 4, y(arena) + 20)
    picture.text(right + 12, baseline, f"lower bound {numbers.size(bound)}", "note")


def _numbers(picture: Picture, named: Sequence[Lifetime], x: Scale, y: Scale) -> None:
    """Number the named buffers, in the rectangle where it has room, else beside it where nothing else is written."""
    taken: list[Box] = []
    for number, buffer in enumerate(named, start=1):
        box = _box(buffer, x, y)
        middle = box.top + box.height / 2
        spots = [Box(box.left + box.width / 2 - 6, middle - 7, 12, 14)]
        if box.width < 12:
            spots = [Box(box.left + box.width + 1, middle - 7, 12, 14), Box(box.left - 13, middle - 7, 12, 14)]
        for spot in spots:
            if not any(spot.overlap(t) for t in taken):
                taken.append(spot)
                picture.text(spot.left + 6, spot.top + 11, str(number), "number halo", "middle")
                break


def _box(buffer: Lifetime, x: Scale, y: Scale) -> Box:
    left, top = x(buffer.first), y(buffer.offset + buffer.size)
    return Box(left, top, max(x(buffer.last) - left, 0.7), max(y(buffer.offset) - top, 0.7))


def _tip(buffer: Lifetime) -> str:
    alive = f"steps {buffer.first} to {buffer.last - 1}"
    return f"{numbers.shorten(buffer.name)}: {numbers.size(buffer.size)} at {numbers.size(buffer.offset)}, {alive}"


def _capped(shown: Sequence[Lifetime], every: Sequence[Lifetime]) -> str:
    if len(shown) == len(every):
        return ""
    share = sum(b.size * (b.last - b.first) for b in shown) / max(sum(b.size * (b.last - b.first) for b in every), 1)
    return (
        f"Drawn: the {len(shown):,} largest of {len(every):,} buffers, {numbers.percent(share, 1)} of all bytes times"
        " the steps they live. memory.json has them all."
    )
