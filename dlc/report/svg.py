"""The little SVG that the report's pictures need: scales, ticks, marks, and labels that do not overlap.

Colours are style-sheet classes, so that a picture follows the reader's light or dark theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal
from xml.etree import ElementTree as ET

from markupsafe import Markup

from dlc.report.numbers import legible

Anchor = Literal["start", "middle", "end"]
CHARACTER = 6.6
"""Width of one character at the pictures' 12 px, on the wide side."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps ``low..high`` to pixels ``start..end``; the logarithmic form needs ``low > 0``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; what lies outside goes to the nearer end."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self, count: int = 6) -> list[float]:
        """Return about ``count`` round values inside the scale."""
        return _log_ticks(self.low, self.high) if self.log else _ticks(self.low, self.high, count)


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    width: float
    height: float

    def overlap(self, other: Box) -> float:
        """Return the area that two boxes share."""
        wide = min(self.left + self.width, other.left + other.width) - max(self.left, other.left)
        high = min(self.top + self.height, other.top + other.height) - max(self.top, other.top)
        return max(wide, 0.0) * max(high, 0.0)


class Picture:
    """An SVG under construction."""

    def __init__(self, width: float, height: float, title: str):
        self.width, self.height = width, height
        self.root = ET.Element("svg", viewBox=f"0 0 {width:g} {height:g}", role="img")
        self.root.set("aria-label", legible(title))

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """Draw a straight line."""
        ET.SubElement(self.root, "path", {"d": f"M{_px(x1)} {_px(y1)}L{_px(x2)} {_px(y2)}", "class": style})

    def path(self, points: Iterable[tuple[float, float]], style: str, *, closed: bool = False, tip: str = "") -> None:
        """Draw a polyline or polygon."""
        joined = "L".join(f"{_px(x)} {_px(y)}" for x, y in points)
        mark = ET.SubElement(self.root, "path", {"d": f"M{joined}{'Z' if closed else ''}", "class": style})
        _tip(mark, tip)

    def rect(self, box: Box, style: str, tip: str = "") -> None:
        """Draw a rectangle."""
        left, top = _px(box.left), _px(box.top)
        size = {"width": _px(box.width), "height": _px(box.height)}
        _tip(ET.SubElement(self.root, "rect", {"x": left, "y": top, **size, "class": style}), tip)

    def text(self, x: float, y: float, words: str, style: str = "", anchor: Anchor = "start") -> None:
        """Write one line; ``y`` is its base line."""
        where = {"x": _px(x), "y": _px(y)}
        if style:
            where["class"] = style
        if anchor != "start":
            where["text-anchor"] = anchor
        ET.SubElement(self.root, "text", where).text = legible(words)

    def mark(self, x: float, y: float, which: int | None, tip: str = "", *, key: bool = False) -> None:
        """Draw the marker of series ``which``, of its own shape and colour; None: the reference's, a grey bar.

        ``key``: small, beside a name.
        """
        radius, style = (4, "key") if key else (6, "mark")
        shape, colour = (_BAR, "ref") if which is None else (_SHAPES[which % len(_SHAPES)], f"s{which % COLOURS}")
        corners = [(x + radius * a, y + radius * b) for a, b in shape]
        self.path(corners, f"{style} {colour}", closed=True, tip=tip)

    def disc(self, x: float, y: float, radius: float, which: int | None, tip: str = "") -> None:
        """Draw a circle in the colour of a series, through which what lies behind is seen; None: the reference's."""
        colour = "ref" if which is None else f"s{which % COLOURS}"
        where = {"cx": _px(x), "cy": _px(y), "r": _px(radius), "class": f"disc {colour}"}
        _tip(ET.SubElement(self.root, "circle", where), tip)

    def markup(self) -> Markup:
        """Return the finished element, for a page that escapes everything else."""
        return Markup(ET.tostring(self.root, encoding="unicode"))  # noqa: S704 - ElementTree has escaped it


LIGHT = ("#0072b2", "#d55e00", "#009e73", "#c2689b", "#b87d00", "#2f96d0")
DARK = ("#4ea9e3", "#f28a4d", "#2fc496", "#e0a3c6", "#f2b83f", "#93d3f7")
"""Colours of the series, in the hues of Okabe and Ito, each with a contrast of 3 or more to its page."""
COLOURS = len(LIGHT)

_CIRCLE = [(math.cos(math.pi * k / 12), math.sin(math.pi * k / 12)) for k in range(24)]
_BAR = [(-1.2, -0.45), (1.2, -0.45), (1.2, 0.45), (-1.2, 0.45)]
_SQUARE = [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
_DIAMOND = [(0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)]
_UP = [(0.0, -1.1), (1.1, 0.9), (-1.1, 0.9)]
_DOWN = [(0.0, 1.1), (1.1, -0.9), (-1.1, -0.9)]
_CROSS = [(a * 0.4, b * 0.4) for a, b in (
    (-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1),
)]  # fmt: skip
_SHAPES = (_CIRCLE, _SQUARE, _DIAMOND, _UP, _DOWN, _CROSS)


def declared(colours: Sequence[str]) -> str:
    """Declare the colours of the series for a style sheet, whose classes are ``.s0``, ``.s1`` and so on."""
    return " ".join(f"--s{i}: {colour};" for i, colour in enumerate(colours))


def width_of(words: str) -> float:
    """Return an upper estimate of the width of a 12 px text."""
    return CHARACTER * len(words)


def place(size: tuple[float, float], spots: Sequence[tuple[float, float]], taken: Sequence[Box], inside: Box) -> Box:
    """Return the box of a label at the first of ``spots`` (its top left corner) where it covers least.

    What sticks out of ``inside`` counts as covered.
    """

    def covered(box: Box) -> float:
        return box.width * box.height - box.overlap(inside) + sum(box.overlap(t) for t in taken)

    return min((Box(x, y, *size) for x, y in spots), key=covered)


def _ticks(low: float, high: float, count: int) -> list[float]:
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = (1, 2, 5) if high / low < 1e3 else (1,)
    return [t for p in powers for m in every if low <= (t := m * 10.0**p) <= high]


def tick_label(value: float, ticks: Sequence[float]) -> str:
    """Write a tick with just the decimals that tell it from its neighbours."""
    gap = min((b - a for a, b in pairwise(ticks)), default=value or 1.0)
    decimals = max(0, -math.floor(math.log10(gap) + 1e-9))
    return f"{value:.{decimals}f}"


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _tip(element: ET.Element, words: str) -> None:
    if words:
        ET.SubElement(element, "title").text = legible(words)
