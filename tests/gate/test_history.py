"""The history and its picture."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from dlc.errors import ArtifactError
from dlc.gate.flow import Outcome
from dlc.gate.history import COMMITS, append, read
from dlc.gate.judging import judge
from dlc.gate.limits import Limits
from dlc.harness.accuracy import METRICS
from dlc.report.trend import trend
from tests.gate.example import observation, score

SVG = "{http://www.w3.org/2000/svg}"


def outcome(wrong: int = 50) -> Outcome:
    now = observation(int8={"score": score(wrong)})
    return Outcome(judge(now, None, Limits(), METRICS["top1"]), [], [], now, None)


@pytest.fixture(autouse=True)
def commit(monkeypatch: pytest.MonkeyPatch) -> str:
    for name in COMMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CI_COMMIT_SHA", "0123456789abcdef")
    return "0123456789abcdef"


def test_a_line_a_run(tmp_path: Path, commit: str) -> None:
    path = tmp_path / "history.jsonl"
    for wrong in (50, 90, 52):
        append(path, outcome(wrong))
    entries = read(path)
    assert len(path.read_text().splitlines()) == 3
    assert [e.status for e in entries] == ["pass", "fail", "pass"]
    assert {e.commit for e in entries} == {commit}
    assert entries[1].points["int8"].metric is not None
    assert entries[1].points["int8"].metric.value == pytest.approx(91)
    assert (tmp_path / "history.svg").read_text().startswith("<svg")


def test_a_line_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    append(path, outcome())
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(ArtifactError, match=r"history .*, line 2 is no record of a gate"):
        append(path, outcome())


def test_the_picture_shows_each_variant_in_each_panel(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    for wrong in (50, 90):
        append(path, outcome(wrong))
    root = ET.fromstring((tmp_path / "history.svg").read_text())
    texts = [t.text for t in root.iter(f"{SVG}text")]
    for panel in ("top1, %", "latency, × of fp32", "size, MiB", "peak memory, MiB"):
        assert panel in texts
    assert (texts.count("int8"), texts.count("fp32")) == (4, 3)  # fp32's latency is 1 by definition
    assert "✕" in texts  # the second run failed
    courses = [p for p in root.iter(f"{SVG}path") if p.get("class", "").startswith("course")]
    assert len(courses) == 7


def test_one_run_is_drawn_too(tmp_path: Path) -> None:
    append(tmp_path / "h.jsonl", outcome())
    assert ET.fromstring(trend(read(tmp_path / "h.jsonl"))).get("viewBox")
