"""The history and its picture."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from dlc.errors import ArtifactError
from dlc.gate.flow import Outcome
from dlc.gate.history import COMMITS, append, read
from dlc.gate.judging import judge
from dlc.gate.limits import Limits
from dlc.harness.accuracy import METRICS
from dlc.report.trend import SHOWN, trend
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
    for panel in ("top1, %", "latency, × of fp32", "size, B", "peak memory, MiB"):
        assert panel in texts
    assert (texts.count("int8"), texts.count("fp32")) == (4, 3)  # fp32's latency is 1 by definition
    assert "✕" in texts  # the second run failed
    courses = [p for p in root.iter(f"{SVG}path") if p.get("class", "").startswith("course")]
    assert len(courses) == 7


def texts(root: ET.Element) -> list[str | None]:
    return [t.text for t in root.iter(f"{SVG}text")]


def test_runs_of_another_model_or_metric_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    for wrong in (50, 51, 52, 53):
        append(path, outcome(wrong))
    first, second, third, last = read(path)
    blind = msgspec.structs.replace(third, metric=None, unit="")  # has no data, and so nothing that could mix
    mixed = [
        msgspec.structs.replace(first, model="another"), msgspec.structs.replace(second, metric="mae", unit=""), blind,
        last,
    ]  # fmt: skip
    root = ET.fromstring(trend(mixed))
    assert "digits: 2 runs, 0123456 to 0123456; 2 of another model or metric left out" in texts(root)
    marks = [t.text for t in root.iter(f"{SVG}title") if t.text and t.text.startswith("int8,")]
    assert sum("95 [" in m or "94.9 [" in m for m in marks) == 0  # of the first two
    assert sum("94.8 [" in m or "94.7 [" in m for m in marks) == 2
    assert "digits: 4 runs, 0123456 to 0123456" in texts(ET.fromstring(trend([first, second, third, last])))


def test_runs_that_did_not_pass_are_marked(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    append(path, outcome())
    [run] = read(path)
    assert not {"?", "✕"} & set(texts(ET.fromstring(trend([run]))))
    opened = texts(ET.fromstring(trend([run, msgspec.structs.replace(run, status="inconclusive")])))
    assert (opened.count("?"), "?: a gate was inconclusive" in opened) == (1, True)
    both = texts(ET.fromstring(trend([msgspec.structs.replace(run, status=s) for s in ("fail", "inconclusive")])))
    assert "✕: a gate failed; ?: a gate was inconclusive" in both


def test_variants_that_are_equal_stand_side_by_side(tmp_path: Path) -> None:
    for _ in range(3):
        append(tmp_path / "h.jsonl", outcome())
    entries = read(tmp_path / "h.jsonl")
    for runs in (entries, entries * 30):
        root = ET.fromstring(trend(runs))
        spreads = [p for p in root.iter(f"{SVG}path") if p.get("class", "").startswith("spread")]
        places = [(p.get("d", "")[1:].split()[0], p.get("class", "").split()[-1]) for p in spreads]
        assert len({at for at, _ in places}) == 2 * min(len(runs), SHOWN)
        order = [series for _, series in sorted(set(places), key=lambda each: float(each[0]))]
        assert order == ["s0", "s1"] * min(len(runs), SHOWN)


def test_where_runs_crowd_intervals_are_thin(tmp_path: Path) -> None:
    append(tmp_path / "h.jsonl", outcome())
    [run] = read(tmp_path / "h.jsonl")
    four = msgspec.structs.replace(run, points=dict.fromkeys(("fp32", "fp16", "int8", "int4"), run.points["int8"]))
    assert "spread thin" not in trend([four] * 5)
    assert '"spread s' not in trend([four] * 60)


def test_bytes_are_in_a_unit_that_suits_them(tmp_path: Path) -> None:
    append(tmp_path / "h.jsonl", outcome())
    [run] = read(tmp_path / "h.jsonl")
    for scale, unit in ((1, "B"), (1 << 10, "KiB"), (1 << 20, "MiB"), (1 << 30, "GiB")):
        points = {n: msgspec.structs.replace(p, bytes=3 * scale + i) for i, (n, p) in enumerate(run.points.items())}
        assert f"size, {unit}" in texts(ET.fromstring(trend([msgspec.structs.replace(run, points=points)])))


def test_one_run_is_drawn_too(tmp_path: Path) -> None:
    append(tmp_path / "h.jsonl", outcome())
    assert ET.fromstring(trend(read(tmp_path / "h.jsonl"))).get("viewBox")
