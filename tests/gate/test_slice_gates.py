"""A slice must not collapse while the mean holds: verdicts on observations made by hand."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from dlc.gate import baseline, flow
from dlc.gate.blame import blame
from dlc.gate.changes import changes
from dlc.gate.judging import judge
from dlc.gate.limits import Limits
from dlc.gate.lines import Line
from dlc.gate.observation import DataSeen, Observation, Rows, Score, Slicing
from dlc.harness.accuracy import METRICS
from dlc.manifest import Estimate, Status
from dlc.recipe import Gates
from dlc.report.gate_junit import render_gate_junit
from dlc.report.gate_summary import render_gate_summary
from dlc.types import Floats
from tests.gate.example import EXAMPLES, observation, on_slices, score, sliced

SITES = np.repeat(["north", "south", "west"], [450, 450, 100])
LIMITS = Limits(recipe=Gates(retention=0.95))
CHANGED: dict[str, Any] = {"outputs": "others", "files": {"model.onnx": "other"}}
OTHER_DATA = DataSeen(name="test", sha256="e" * 64, examples=EXAMPLES, sizes={"batch": (40, 64)})


def hits(wrong: dict[str, int]) -> Score:
    """So many wrong answers on each site."""
    rows = np.ones((EXAMPLES, 1))
    for site, count in wrong.items():
        rows[np.flatnonzero(site == SITES)[:count]] = 0
    return msgspec.structs.replace(score(), rows=Rows.of(rows))


def seen(wrong: dict[str, int] | None = None, **changed: Any) -> Observation:
    """Return an observation by sites: of the reference 5 % are wrong on each, of int8 ``wrong``."""
    usual = {"north": 22, "south": 22, "west": 5}
    int8 = {"score": hits({**usual, **(wrong or {})}), **(CHANGED if wrong else {})}
    return on_slices(sliced(observation(int8=int8, fp32={"score": hits(usual)}, **changed), SITES))


def slices(now: Observation, before: Observation | None = None, limits: Limits = LIMITS) -> dict[str, Line]:
    lines = judge(now, before, limits, METRICS["top1"])
    return {line.name: line for line in lines if "slices" in line.gate}


def test_nothing_changed_and_every_slice_holds() -> None:
    found = slices(seen(), seen())
    assert {name: line.status for name, line in found.items()} == {
        "fp32/slices since baseline": "pass", "int8/slices": "pass", "int8/slices since baseline": "pass",
    }  # fmt: skip
    assert found["int8/slices since baseline"].reason.endswith("every output is the baseline's, bit for bit")
    assert found["int8/slices"].reason == (
        "slice site=west (100 examples): top1 95.00 %, 0.00 points behind FP32 [-3.70, 3.70], at most 9.50; the worst "
        "of 3 slices"
    )


@pytest.mark.parametrize("gate", ["slices", "slices since baseline"])
def test_a_slice_collapses_while_the_mean_holds(gate: str) -> None:
    """Of 1,000 answers 25 are lost, a margin of 4.75 points holds; all 25 are of the 100 in the west."""
    now = seen({"west": 30})
    lines = {line.name: line for line in judge(now, seen(), LIMITS, METRICS["top1"])}
    assert lines["int8/accuracy"].status == "pass"
    assert lines["int8/accuracy since baseline"].status == "pass"
    found = lines[f"int8/{gate}"]
    assert found.status == "fail"
    assert found.reason.startswith("slice site=west (100 examples): top1 70.00 %, 25.00 points behind ")
    assert found.value == pytest.approx(25.0)
    assert found.limit == pytest.approx(9.5)
    assert found.low is not None
    assert found.low > 9.5


@pytest.mark.parametrize(("wrong", "verdict"), [(6, "pass"), (12, "inconclusive"), (13, "inconclusive"), (17, "fail")])
def test_a_slice_since_the_baseline(wrong: int, verdict: Status) -> None:
    """The margin is a tenth of 95 %; 12 more wrong of 100 is beyond it."""
    assert slices(seen({"west": wrong}), seen())["int8/slices since baseline"].status == verdict


def test_several_slices_are_named_the_worst_first() -> None:
    found = slices(seen({"west": 30, "south": 110, "north": 120}))["int8/slices"]
    assert found.status == "fail"
    assert found.reason.startswith("slice site=west ")
    assert found.reason.endswith("; of 3 slices 3 fail, also site=north, site=south")


def test_a_certain_failure_is_named_before_a_larger_one_by_chance() -> None:
    """Two of 4 examples are half of a slice, and nothing is sure of them."""
    labels = SITES.astype("<U8")
    labels[:4] = "tiny"
    rows = hits({"west": 30}).rows.unpack()
    rows[:2] = 0
    own = msgspec.structs.replace(score(), rows=Rows.of(rows))
    fair = hits({})
    now = sliced(observation(int8={"score": own, **CHANGED}, fp32={"score": fair}), labels)
    before = sliced(observation(int8={"score": fair}, fp32={"score": fair}), labels)
    found = slices(now, before)["int8/slices since baseline"]
    assert found.status == "fail"
    assert found.reason.startswith("slice site=west (")
    assert found.reason.endswith("; the worst of 4 slices; 1 with fewer than 30 examples can only fail")


def test_many_slices_are_corrected_for() -> None:
    """Seven of 50 lost, none gained: p = 2⁻⁷ alone, and not beyond chance among twenty such slices."""
    limits = Limits(recipe=Gates(retention=0.5, slice_drop=10.0))
    for count, verdict in ((2, "fail"), (20, "inconclusive")):
        labels = np.array([f"{i * count // EXAMPLES:02d}" for i in range(EXAMPLES)])
        first = np.flatnonzero(labels == "00")
        rows = np.ones((EXAMPLES, 1))
        lost = 7 if count == 20 else 51 + 6
        rows[first[:lost]] = 0
        now = sliced(
            observation(int8={"score": msgspec.structs.replace(score(), rows=Rows.of(rows)), **CHANGED},
                        fp32={"score": hits({})}), labels,
        )  # fmt: skip
        before = sliced(observation(int8={"score": hits({})}, fp32={"score": hits({})}), labels)
        assert slices(now, before, limits)["int8/slices since baseline"].status == verdict, count


def test_a_slice_of_few_examples_can_fail_and_decides_nothing_else() -> None:
    labels = np.where(np.arange(EXAMPLES) < 20, "few", "many")
    before = sliced(observation(int8={"score": hits({})}, fp32={"score": hits({})}), labels)
    for lost, verdict in ((1, "pass"), (12, "fail")):
        now = sliced(observation(int8={"score": hits({"north": lost}), **CHANGED}, fp32={"score": hits({})}), labels)
        assert slices(now, before)["int8/slices since baseline"].status == verdict
        assert slices(now)["int8/slices"].status == verdict


def test_other_data_are_compared_but_not_in_pairs() -> None:
    now = sliced(observation(data=OTHER_DATA, int8={"score": hits({"west": 20}), **CHANGED}), SITES[::-1])
    before = sliced(observation(int8={"score": hits({})}), SITES)
    found = slices(now, before)["int8/slices since baseline"]
    assert "on other data, so not example by example" in found.reason
    assert found.status == "pass"  # today's first 100 are the west: the 20 at the end belong to the north
    now = sliced(observation(data=OTHER_DATA, int8={"score": hits({"west": 20}), **CHANGED}), SITES)
    found = slices(now, before)["int8/slices since baseline"]
    assert (found.status, found.reason[:15]) == ("fail", "slice site=west")


def test_a_slice_that_is_gone_leaves_the_gate_open() -> None:
    labels = np.where(SITES == "west", "south", SITES)
    now = sliced(seen({"west": 6}), labels)
    found = slices(now, seen())["int8/slices since baseline"]
    assert found.status == "inconclusive"
    assert found.reason.endswith("; no longer there, so not compared: site=west")
    elsewhere = sliced(msgspec.structs.replace(now, data=OTHER_DATA), labels, name="place")
    found = slices(elsewhere, seen())["int8/slices since baseline"]
    assert found.status == "inconclusive"
    assert found.reason == "no slice of the baseline is there any more: site=north, site=south, site=west"


def test_a_baseline_from_before_there_were_slices_is_cut_by_todays_labels() -> None:
    found = slices(seen({"west": 30}), observation(int8={"score": hits({})}))["int8/slices since baseline"]
    assert found.status == "fail"


def test_a_slice_without_a_value() -> None:
    """Of one class there is no area under the curve; a candidate that has none where FP32 has one fails."""
    auc = METRICS["auc"]
    rng = np.random.default_rng(0)
    truth = np.repeat([0.0, 1.0], EXAMPLES // 2)
    rows = np.stack([truth + rng.normal(scale=0.1, size=EXAMPLES), truth], axis=1)
    labels = np.where(np.arange(EXAMPLES) % 2 == 0, "mixed", "also mixed").astype("<U10")
    labels[:100] = "one class"
    own = Score(metric="auc", unit="%", higher_is_better=True, value=Estimate(value=100.0, low=99.0, high=100.0),
                rows=Rows.of(rows))  # fmt: skip
    now = sliced(observation(int8={"score": own}, fp32={"score": own}, stated=None), labels)
    [found] = [e for e in judge(now, None, LIMITS, auc) if e.gate == "slices"]
    assert found.status == "pass"
    assert found.reason.endswith("; the worst of 2 slices")
    broken = rows.copy()
    broken[labels == "mixed", 1] = 1.0
    less = msgspec.structs.replace(own, rows=Rows.of(broken))
    now = sliced(observation(int8={"score": less}, fp32={"score": own}, stated=None), labels)
    [found] = [e for e in judge(now, None, LIMITS, auc) if e.gate == "slices"]
    assert found.status == "fail"
    assert found.reason.startswith("slice site=mixed (450 examples): no auc can be computed, and FP32 has one")


def test_errors_are_behind_where_they_are_larger() -> None:
    rng = np.random.default_rng(0)
    distances = rng.uniform(4, 6, (EXAMPLES, 1))

    def errors(rows: Floats) -> Score:
        value = Estimate(value=float(rows.mean()), low=0.0, high=9.0)
        return Score(metric="mae", unit="m", higher_is_better=False, value=value, rows=Rows.of(rows))

    worse = distances + np.where(SITES == "south", 1.0, 0.0)[:, None]
    now = sliced(observation(int8={"score": errors(worse)}, fp32={"score": errors(distances)}, stated=None), SITES)
    for drop, verdict in ((0.5, "fail"), (1.5, "pass")):
        lines = judge(now, None, Limits(recipe=Gates(max_drop=1.0, slice_drop=drop)), METRICS["mae"])
        [found] = [line for line in lines if line.gate == "slices"]
        assert found.status == verdict
        assert found.reason.startswith("slice site=south (450 examples): mae ")
        assert "1.00 m behind FP32" in found.reason


def test_labels_are_kept_as_they_are() -> None:
    cut = Slicing.of("site", SITES)
    assert cut.names() == ["site=north", "site=south", "site=west"]
    assert [int(where.sum()) for _, where in cut.members()] == [450, 450, 100]
    assert np.array_equal(dict(cut.members())["site=south"], SITES == "south")


def test_a_baseline_holds_the_slices_and_one_without_any_is_as_it_was(tmp_path: Any) -> None:
    baseline.write(tmp_path / "b.json", seen())
    assert baseline.read(tmp_path / "b.json") == seen()
    assert b'"site=west"' in (tmp_path / "b.json").read_bytes()
    baseline.write(tmp_path / "plain.json", observation())
    assert b"slic" not in (tmp_path / "plain.json").read_bytes()


def test_the_worst_slice_is_named_everywhere_and_blamed() -> None:
    now, before = seen({"west": 30}), seen()
    lines = judge(now, before, LIMITS, METRICS["top1"])
    since = changes(before, now)
    blames = [b for line in lines if (b := blame(line, lines, now, before, since)) is not None]
    assert {b.gate: b.kind for b in blames} == {
        "int8/slices": "quantization", "int8/slices since baseline": "quantization",
    }  # fmt: skip
    outcome = flow.Outcome(lines, blames, since, now, before)
    junit = render_gate_junit(outcome)
    assert 'name="slices since baseline"' in junit
    assert 'message="slice site=west (100 examples): top1 70.00 %, 25.00 points behind the baseline' in junit
    summary = render_gate_summary(outcome)
    assert "**int8, slices since baseline** ❌ slice site=west (100 examples)" in summary
    assert "| site=west | 100 | 95.00 | 70.00 (was 95.00) |" in summary
    shown = flow.as_json(outcome)["observation"]
    assert isinstance(shown, Observation)
    assert shown.data is not None
    assert [s.packed for s in shown.data.slicings] == [""]
    assert "slices of the data" not in render_gate_summary(flow.Outcome([], [], [], observation(), None))
