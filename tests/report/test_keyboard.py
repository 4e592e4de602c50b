"""The report without a mouse and without eyes: Tab, Enter and Space in a real browser, and the names that it tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dlc.report.html import render_html
from tests.report.chromium import Tab, needs_chromium
from tests.report.example import LABELLED, PLANS
from tests.report.measures import measured

pytestmark = needs_chromium

STOPS = """[...document.querySelectorAll("*")].filter(e => e.checkVisibility() && (
    e.matches("a[href], summary, [tabindex='0']") || e.matches(".scroll") && e.scrollWidth > e.clientWidth
))"""
"""All that a page without scripts and forms can be used by; Chromium also stops at whatever scrolls."""
FOCUS = measured("""
    const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
    return e === document.body ? null : {
        number: [...document.querySelectorAll("*")].indexOf(e), what: e.outerHTML.slice(0, 80), style: s.outlineStyle,
        width: parseFloat(s.outlineWidth), contrast: contrast(rgba(s.outlineColor), backdrop(e.parentElement)),
        seen: r.width > 0 && r.height > 0 && r.bottom > 0 && r.top < innerHeight && r.right > 0 && r.left < innerWidth,
    };
""")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keyboard") / "report.html"
    path.write_text(render_html(LABELLED, PLANS), encoding="utf-8")
    return path


def stops(tab: Tab) -> list[dict[str, Any]]:
    """Press Tab from the top of the page until the focus leaves it."""
    found: list[dict[str, Any]] = []
    while True:
        tab.press("Tab")
        if (focus := tab.run(FOCUS)) is None or (found and focus["number"] == found[0]["number"]):
            return found
        found.append(focus)


@pytest.mark.parametrize("width", [1280, 400], ids=["desktop", "phone"])
def test_tab_stops_at_all_there_is_in_the_order_of_the_page(tab: Tab, report: Path, width: int) -> None:
    tab.open(report, width=width)
    found = [each["number"] for each in stops(tab)]
    assert found == tab.run(f"{STOPS}.map(e => [...document.querySelectorAll('*')].indexOf(e))")
    assert len(found) > 20


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_focus_is_seen(tab: Tab, report: Path, *, dark: bool) -> None:
    """WCAG 2.2, 2.4.7 and 1.4.11: where the focus is, with a ring of a contrast of at least 3 to what is around."""
    tab.open(report, dark=dark)
    for each in stops(tab):
        assert each["seen"], each
        assert (each["style"], each["width"] >= 2) == ("solid", True), each
        assert each["contrast"] >= 3, each


def test_a_page_without_rings_would_be_found(tab: Tab, tmp_path: Path) -> None:
    path = tmp_path / "bare.html"
    path.write_text("<!doctype html><style>a { outline: 1px solid #eee !important }</style><a href='#x'>x</a>")
    tab.open(path)
    [found] = stops(tab)
    assert found["width"] < 2
    assert found["contrast"] < 3


def test_the_first_stop_skips_to_the_verdicts(tab: Tab, report: Path) -> None:
    tab.open(report)
    tab.press("Tab")
    tab.press("Enter")
    assert tab.run("location.hash") == "#verdicts"
    tab.press("Tab")
    assert tab.run("document.querySelector('#verdicts').contains(document.activeElement)")


def test_what_is_folded_opens_and_closes_by_keyboard(tab: Tab, report: Path) -> None:
    """Enter and Space; no fold is inside another one that is shut."""
    tab.open(report)
    folds = tab.run("document.querySelectorAll('details').length")
    assert folds > 5
    tab.run("document.querySelectorAll('details').forEach((e, i) => e.dataset.fold = i)")
    state = "[+document.activeElement.parentElement.dataset.fold, document.activeElement.parentElement.open]"
    turned = set[int]()
    for each in tab.run(f"{STOPS}.map(e => e.tagName)"):
        tab.press("Tab")
        if each != "SUMMARY":
            continue
        fold, before = tab.run(state)
        tab.press("Enter")
        assert tab.run(state) == [fold, not before]
        tab.press(" ")
        assert tab.run(state) == [fold, before]
        turned.add(fold)
    assert len(turned) == folds


def test_everything_has_a_name(tab: Tab, report: Path) -> None:
    """What is read aloud: links, folds, pictures, signs, and the groups that a reader can stop at."""
    tab.open(report)
    tab.run("document.querySelectorAll('details').forEach(e => e.open = true)")
    told = [(role, name) for role, name in tab.names() if role in {"link", "image", "DisclosureTriangle", "navigation"}]
    assert {role for role, _ in told} == {"link", "image", "DisclosureTriangle", "navigation"}
    assert [role for role, name in told if not name.strip()] == []
    groups = tab.run(
        "[...document.querySelectorAll('[tabindex], [role=group]')].map(e => e.getAttribute('aria-label'))"
    )
    assert len(groups) > 3
    assert all(groups)


def test_every_picture_stands_beside_its_numbers(tab: Tab, report: Path) -> None:
    """In the section, or under the heading, of each picture there is a table, which needs no eyes."""
    tab.open(report)
    alone = tab.run("""[...document.querySelectorAll("figure")].filter(e => {
        for (let next = e.nextElementSibling; next && next.tagName !== "FIGURE"; next = next.nextElementSibling)
            if (next.matches("table, .scroll") && next.querySelector("td")) return false;
        return true;
    }).map(e => e.querySelector("svg").getAttribute("aria-label"))""")
    assert alone == []
