"""The picture of a variant's layers by SQNR: one bar a value, the worst on top."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from dlc.manifest import LayerRecord
from dlc.report import numbers
from dlc.report.svg import COLOURS, Box, Picture, Scale

WIDTH, ROW, TOP, BOTTOM = 760.0, 20.0, 8.0, 40.0
LEFT, RIGHT = 300.0, 690.0
SHOWN = 20
NAME = 40
"""Characters of a name that fit beside a bar."""


def worst(layers: Sequence[LayerRecord]) -> list[LayerRecord]:
    """Return those that are shown, the one with the most noise first."""
    return sorted(layers, key=lambda layer: layer.sqnr_db)[:SHOWN]


def by_sqnr(layers: Sequence[LayerRecord], series: int) -> Markup:
    """Draw the worst layers, in the colour of their variant; an SQNR below 0 dB has no bar."""
    shown = worst(layers)
    bottom = TOP + ROW * len(shown)
    x = Scale(0.0, max(10.0, *(layer.sqnr_db for layer in shown)), LEFT, RIGHT)
    picture = Picture(WIDTH, bottom + BOTTOM, f"SQNR of the {len(shown)} layers that differ most from FP32")
    for tick in x.ticks():
        picture.line(x(tick), TOP, x(tick), bottom, "grid")
        picture.text(x(tick), bottom + 16, f"{tick:g}", "tick", "middle")
    picture.text((LEFT + RIGHT) / 2, bottom + 34, "← more noise · SQNR in dB · closer to FP32 →", "axis", "middle")
    for i, layer in enumerate(shown):
        top, words = TOP + ROW * i, numbers.decibels(layer.sqnr_db)
        tip = f"{layer.value}, computed by {layer.node} ({layer.op}): {words}"
        picture.rect(Box(LEFT, top + 3, x(layer.sqnr_db) - LEFT, ROW - 6), f"area s{series % COLOURS}", tip)
        picture.text(LEFT - 8, top + 14, numbers.shorten(f"{layer.op} {layer.value}", NAME), "tick", "end")
        picture.text(x(layer.sqnr_db) + 6, top + 14, words, "tick")
    return picture.markup()
