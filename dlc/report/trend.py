"""The history of a gate as one SVG of its own: metric, latency, size and memory of each variant over the runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from xml.etree import ElementTree as ET

from dlc.gate.history import Entry, Point
from dlc.manifest import Estimate, Status
from dlc.report.svg import COLOURS, DARK, LIGHT, Picture, Scale, declared, tick_label
from dlc.types import Bytes

WIDTH, PANEL, TOP, LEFT, RIGHT, BOTTOM = 760.0, 118.0, 34.0, 84.0, 110.0, 46.0
APART = 6.0
"""Pixels between the marks of two variants in one run, where there is room."""
THICK = 3.0
"""Pixels that an interval's stroke is wide, where it has them for itself; else it is thin."""
SHOWN = 60
"""Latest runs that are drawn."""
MARKS: Mapping[Status, tuple[str, str, str]] = {
    "fail": ("✕", "a gate failed", "failed"), "inconclusive": ("?", "a gate was inconclusive", "open"),
}  # fmt: skip
"""Sign below a run that did not pass, what it says, and the class of its text."""
STYLE = f"""
svg {{ --page: #fff; --ink: #1b2027; --muted: #5a6470; --line: #dde2e8; --fail: #a82a00;
  {declared(LIGHT)} background: var(--page); }}
@media (prefers-color-scheme: dark) {{ svg {{ --page: #12161b; --ink: #e8ecf1; --muted: #a0abb8; --line: #2f3842;
  --fail: #ffa584; {declared(DARK)} }} }}
text {{ font: 12px system-ui, "Liberation Sans", Arial, sans-serif; fill: var(--ink); }}
.tick, .axis {{ fill: var(--muted); }} .label {{ font-weight: 600; }} .failed {{ fill: var(--fail); font-weight: 700; }}
.open {{ fill: var(--muted); font-weight: 700; }}
path {{ fill: none; }} .grid {{ stroke: var(--line); }}
.s0 {{ --c: var(--s0); }} .s1 {{ --c: var(--s1); }} .s2 {{ --c: var(--s2); }}
.s3 {{ --c: var(--s3); }} .s4 {{ --c: var(--s4); }} .s5 {{ --c: var(--s5); }}
.mark, path.key {{ fill: var(--c); stroke: var(--page); }}
.spread {{ stroke: var(--c); stroke-opacity: .45; stroke-width: {THICK:g}; }} .thin {{ stroke-width: 1; }}
.course {{ stroke: var(--c); stroke-width: 1.5; }}
.s1.course {{ stroke-dasharray: 7 3; }} .s2.course {{ stroke-dasharray: 2 3; }}
.s3.course {{ stroke-dasharray: 9 3 2 3; }}
.s4.course {{ stroke-dasharray: 14 4; }} .s5.course {{ stroke-dasharray: 4 2 1 2; }}
"""

Value = Callable[[Point], Estimate | None]


def trend(entries: Sequence[Entry]) -> str:
    """Draw the latest runs of the last one's model, oldest left; one whose gate failed is crossed below the axis.

    Runs of other models, or with another metric than the latest that has one, have no place on the same axes.
    """
    alike = _alike(entries)
    runs, others = alike[-SHOWN:], len(entries) - len(alike)
    variants = list(dict.fromkeys(p for e in runs for p in e.points))
    metric = next((f"{e.metric}{', %' if e.unit == '%' else ''}" for e in reversed(runs) if e.metric), None)
    panels: dict[str, Value] = {
        **({metric: lambda p: p.metric} if metric else {}),
        "latency, × of fp32": lambda p: None if p.latency.low == p.latency.high else p.latency,  # fp32's own is 1
        **_bytes("size", runs, lambda p: p.bytes),
        **_bytes("peak memory", runs, lambda p: p.peak_bytes),
    }
    height = TOP + PANEL * len(panels) + BOTTOM
    picture = Picture(WIDTH, height, f"Trend of {runs[-1].model} over {len(runs)} runs")
    picture.root.set("xmlns", "http://www.w3.org/2000/svg")
    picture.root.set("width", f"{WIDTH:g}")
    picture.root.insert(0, _style())
    x = Scale(0, max(len(runs) - 1, 1), LEFT + 16, WIDTH - RIGHT - 8)
    left_out = f"; {others} of another model or metric left out" if others else ""
    span = f"{len(runs)} runs, {_commit(runs[0])} to {_commit(runs[-1])}"
    picture.text(LEFT, 16, f"{runs[-1].model}: {span}{left_out}", "label")
    for index, (name, value) in enumerate(panels.items()):
        _panel(picture, name, TOP + PANEL * index, x, runs, variants, value)
    _axis(picture, x, runs, TOP + PANEL * len(panels))
    return str(picture.markup()) + "\n"


def _bytes(name: str, runs: Sequence[Entry], of: Callable[[Point], Bytes]) -> dict[str, Value]:
    """Name a panel of bytes, in the largest unit of which there is one at least in every run."""
    least = min((of(p) for e in runs for p in e.points.values()), default=1)
    power = min(max(least, 1).bit_length() - 1, 39) // 10
    return {f"{name}, {('B', 'KiB', 'MiB', 'GiB')[power]}": lambda p: _exact(of(p) / 1024**power)}


def _alike(entries: Sequence[Entry]) -> list[Entry]:
    """Return the runs of the last one's model, without those of another metric; one without data has none."""
    own = [e for e in entries if e.model == entries[-1].model]
    metric = next(((e.metric, e.unit) for e in reversed(own) if e.metric), None)
    return [e for e in own if e.metric is None or (e.metric, e.unit) == metric]


def _panel(
    picture: Picture, name: str, top: float, x: Scale, runs: Sequence[Entry], variants: Sequence[str], value: Value
) -> None:
    found = {v: _series(runs, v, value) for v in variants}
    known = [e for series in found.values() for e in series.values()]
    if not known:
        return
    low, high = min(e.low for e in known), max(e.high for e in known)
    room = (high - low) * 0.08 or max(abs(high), 1e-9) * 0.02
    y = Scale(low - room, high + room, top + PANEL - 14, top + 20)
    picture.text(LEFT, top + 12, name, "axis")
    ticks = y.ticks(4)
    for tick in ticks:
        picture.line(LEFT, y(tick), WIDTH - RIGHT + 8, y(tick), "grid")
        picture.text(LEFT - 6, y(tick) + 4, tick_label(tick, ticks), "tick", "end")
    apart = min(APART, 0.7 * (x(1) - x(0)) / len(found))
    spread = "spread" if apart > THICK else "spread thin"
    for which, (variant, series) in enumerate(found.items()):
        if not series:
            continue
        aside = (which - (len(found) - 1) / 2) * apart  # else variants that are equal hide each other
        picture.path([(x(i) + aside, y(e.value)) for i, e in series.items()], f"course s{which % COLOURS}")
        for i, e in series.items():
            picture.line(x(i) + aside, y(e.low), x(i) + aside, y(e.high), f"{spread} s{which % COLOURS}")
            tip = f"{variant}, {_commit(runs[i])}: {e.value:.4g} [{e.low:.4g}, {e.high:.4g}]"
            picture.mark(x(i) + aside, y(e.value), which, tip, key=True)
    _names(picture, found, y)


def _names(picture: Picture, found: Mapping[str, Mapping[int, Estimate]], y: Scale) -> None:
    """Write each variant's name at the height of its last value, moved down where another stands."""
    last = sorted((y(s[max(s)].value), which, v) for which, (v, s) in enumerate(found.items()) if s)
    free = 0.0
    for at, which, variant in last:
        free = max(at, free + 14)
        picture.mark(WIDTH - RIGHT + 22, free, which, key=True)
        picture.text(WIDTH - RIGHT + 32, free + 4, variant)


def _axis(picture: Picture, x: Scale, runs: Sequence[Entry], top: float) -> None:
    every = -(-len(runs) // 8)
    for i, run in enumerate(runs):
        if run.status in MARKS:
            sign, _, kind = MARKS[run.status]
            picture.text(x(i), top + 10, sign, kind, "middle")
        if i % every == 0:
            picture.text(x(i), top + 24, _commit(run), "tick", "middle")
    key = "; ".join(
        f"{sign}: {words}" for status, (sign, words, _) in MARKS.items() if status in {r.status for r in runs}
    )
    picture.text(LEFT, top + 40, key or "commit", "axis")


def _series(runs: Sequence[Entry], variant: str, value: Value) -> dict[int, Estimate]:
    points = {i: value(run.points[variant]) for i, run in enumerate(runs) if variant in run.points}
    return {i: found for i, found in points.items() if found is not None}


def _exact(value: float) -> Estimate:
    return Estimate(value=value, low=value, high=value)


def _commit(run: Entry) -> str:
    return run.commit[:7] if run.commit else run.time[:10]


def _style() -> ET.Element:
    style = ET.Element("style")
    style.text = STYLE
    return style
