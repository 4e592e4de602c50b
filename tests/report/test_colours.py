"""Nothing on the report is told by colour alone, and what is written can be read in both themes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree as ET

import msgspec
import pytest

from dlc.gate.history import Entry, Point
from dlc.manifest import Status
from dlc.recipe import PRECISIONS
from dlc.report.html import SYMBOLS, render_html
from dlc.report.svg import COLOURS, Picture
from dlc.report.trend import trend
from tests.report.chromium import Tab, needs_chromium
from tests.report.example import INT8, LABELLED, PLANS, estimate
from tests.report.measures import measured

pytestmark = needs_chromium

THEMES = pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
TEXT = 4.5
"""Least contrast of text to what is behind it: WCAG 2.2, 1.4.3, level AA."""
GRAPHIC = 3.0
"""Least contrast of what tells one thing in a picture from another: WCAG 2.2, 1.4.11, level AA."""
WRITTEN = measured("""
    document.querySelectorAll("details").forEach(e => e.open = true);
    const found = [], walk = document.createTreeWalker(document.body ?? document.documentElement, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const e = walk.currentNode.parentElement, s = getComputedStyle(e);
        if (!walk.currentNode.data.trim() || !e.checkVisibility() || e.closest("title, style")) continue;
        const colour = rgba(e.closest("svg") ? s.fill : s.color), below = backdrop(e);
        found.push({text: walk.currentNode.data.trim().slice(0, 40), in: e.tagName + "." + e.getAttribute("class"),
                    contrast: contrast(over(colour, below), below)});
    }
    return found;
""")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All statuses, and as many series as there are precisions."""
    path = tmp_path_factory.mktemp("colours") / "report.html"
    more = tuple(msgspec.structs.replace(INT8, precision=f"v{i}") for i in range(COLOURS - len(LABELLED.variants)))
    manifest = msgspec.structs.replace(LABELLED, variants=LABELLED.variants + more)
    path.write_text(render_html(manifest, PLANS), encoding="utf-8")
    return path


@THEMES
def test_all_that_is_written_can_be_read(tab: Tab, report: Path, *, dark: bool) -> None:
    tab.open(report, dark=dark)
    found: list[dict[str, Any]] = tab.run(WRITTEN)
    assert len(found) > 400
    assert [each for each in found if each["contrast"] < TEXT] == []


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many variants as there are precisions, with a run that failed and one that is open."""
    point = Point(metric=estimate(98, 1), latency=estimate(0.5, 0.1), bytes=4096, peak_bytes=1 << 26)
    runs = [
        Entry(time="2026-01-01T00:00:00Z", commit=f"{i:040x}", model="digits-cnn", status=status, metric="top1",
              unit="%", points=dict.fromkeys(PRECISIONS, point))
        for i, status in enumerate(get_args(Status)[:3])
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("history") / "history.svg"
    path.write_text(trend(runs), encoding="utf-8")
    return path


@THEMES
def test_the_history_can_be_read_and_its_lines_told_apart(tab: Tab, history: Path, *, dark: bool) -> None:
    tab.open(history, dark=dark)
    found = tab.run(WRITTEN)
    assert len(found) > 30
    assert [each for each in found if each["contrast"] < TEXT] == []
    lines = tab.run(measured("""
        return [...document.querySelectorAll(".course")].map(e => [e.getAttribute("class"),
            getComputedStyle(e).strokeDasharray, contrast(rgba(getComputedStyle(e).stroke), backdrop(e))]);
    """))  # fmt: skip
    assert len({kind for kind, _, _ in lines}) == len({dashes for _, dashes, _ in lines}) == len(PRECISIONS)
    assert min(contrast for _, _, contrast in lines) >= GRAPHIC


def test_faint_writing_would_be_found(tab: Tab, tmp_path: Path) -> None:
    """#777 on white has 4.48, #767676 has 4.54; half of white on black is a grey of 127.5, of luminance 0.214."""
    path = tmp_path / "faint.html"
    path.write_text(
        "<!doctype html><p style='color: #777'>a</p><p style='color: #767676'>b</p>"
        "<div style='background: #000'><p style='background: rgb(255 255 255 / 50%); color: #fff'>c</p></div>"
    )
    tab.open(path)
    a, b, c = (each["contrast"] for each in tab.run(WRITTEN))
    assert (round(a, 2), round(b, 2)) == (4.48, 4.54)
    assert c == pytest.approx(1.05 / 0.264, rel=0.01)


@THEMES
def test_the_marks_of_pictures_stand_out(tab: Tab, report: Path, *, dark: bool) -> None:
    """Each mark by its colour or its outline; bars and slopes by their stroke."""
    tab.open(report, dark=dark)
    found = tab.run(
        measured("""
            const drawn = "svg .mark, svg path.key, svg .bar, svg .spread, svg .gate, svg .reference";
            const side = (e, which) => {
                const s = getComputedStyle(e), below = backdrop(e);
                if (s[which] === "none") return 1;
                const [r, g, b, a] = rgba(s[which]);
                return contrast(over([r, g, b, a * s[which + "Opacity"]], below), below);
            };
            return [...document.querySelectorAll(drawn)].map(e => (
                {what: e.getAttribute("class"), contrast: Math.max(side(e, "fill"), side(e, "stroke"))}
            ));
        """)
    )
    assert len(found) > 30
    assert [each for each in found if each["contrast"] < GRAPHIC] == []


@THEMES
def test_what_is_alive_at_the_peak_is_darker_or_lighter_too(tab: Tab, report: Path, *, dark: bool) -> None:
    tab.open(report, dark=dark)
    apart = tab.run(measured("""
        const fill = query => rgba(getComputedStyle(document.querySelector(query)).fill);
        return contrast(fill(".buffer.alive"), fill(".buffer:not(.alive)"));
    """))  # fmt: skip
    assert apart >= GRAPHIC


def test_every_status_has_a_word_and_a_sign_of_its_own(tab: Tab, report: Path) -> None:
    tab.open(report)
    badges = tab.run("[...document.querySelectorAll('.badge')].map(e => [e.classList[1], e.innerText])")
    for status in get_args(Status):
        said = {text for kind, text in badges if kind == status.replace(" ", "-")}
        assert said == {f"{SYMBOLS[status]} {status}"}
    assert len(set(SYMBOLS.values())) == len(SYMBOLS)
    signs = tab.run("[...document.querySelectorAll('.sign')].map(e => [e.getAttribute('aria-label'), e.innerText])")
    assert {(word, sign) for word, sign in signs if word != "note"} <= {(s, SYMBOLS[s]) for s in get_args(Status)}
    coloured = tab.run("[...document.querySelectorAll('.applied, .rolled')].map(e => e.textContent)")
    assert {"✓ kept", "✓ applied", "↶ rolled back"} <= set(coloured)


def test_every_precision_has_a_shape_of_its_own() -> None:
    assert len(PRECISIONS) <= COLOURS
    shapes = set[str]()
    for series in (None, *range(COLOURS)):
        picture = Picture(20, 20, "")
        picture.mark(10, 10, series)
        shapes.add(ET.fromstring(picture.markup())[0].attrib["d"])
    assert len(shapes) == COLOURS + 1
