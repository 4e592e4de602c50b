"""The comment on a pull request: what a reader sees at once, and what unfolds."""

from __future__ import annotations

import msgspec

from dlc.gate.flow import Outcome
from dlc.gate.judging import judge
from dlc.gate.limits import Limits
from dlc.gate.observation import Observation
from dlc.harness.accuracy import METRICS
from dlc.report.gate_summary import DETAILS, RATE, render_gate_summary
from tests.gate.example import observation, score, timing


def summary(now: Observation, before: Observation | None = None) -> str:
    lines = judge(now, before, Limits(), METRICS["top1"])
    return render_gate_summary(Outcome(lines, [], [], now, before))


def test_what_is_wide_unfolds() -> None:
    at_once, _, rest = summary(observation()).partition("<details>")
    assert "| variant | metric | latency | size | peak memory |" in at_once
    unfolds = rest.partition("</details>")[0]
    assert f"| {' | '.join(DETAILS)} |" in unfolds
    [row] = [line for line in unfolds.splitlines() if line.startswith("| int8 |")]
    assert row.endswith("| 5.000 ms | 1.000 ms | 1000 B | 900 B (90 %) |")
    assert RATE not in rest


def test_throughput_is_there_where_it_was_measured() -> None:
    fast = msgspec.structs.replace(timing(0.5), per_second=1234.5)
    page = summary(observation(int8={"timing": fast}))
    assert f"| {' | '.join([*DETAILS, RATE])} |" in page
    assert "| 900 B (90 %) | 1234 |" in page
    assert "| 900 B (22 %) | – |" in page


def test_a_reader_is_told_what_inconclusive_asks_for() -> None:
    words = "Inconclusive is neither held nor broken"
    unsure = summary(observation(int8={"score": score(58)}))
    assert "inconclusive" in unsure.splitlines()[0]
    assert words in unsure
    assert words not in summary(observation())


def test_other_files_without_another_record_are_named() -> None:
    other = observation(int8={"files": {"model.onnx": "other"}})
    assert "But the files of int8 are not the baseline's." in summary(other, observation())
    assert "But the files" not in summary(observation(), observation())
