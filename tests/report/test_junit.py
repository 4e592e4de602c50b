from __future__ import annotations

from xml.etree import ElementTree as ET

import msgspec
import pytest

from dlc.manifest import Manifest, VerdictRecord
from dlc.report.junit import render_junit
from tests.report.example import EXAMPLES, FP16, HOSTILE, INT4, LABELLED


def suites(manifest: Manifest) -> dict[str, ET.Element]:
    return {suite.attrib["name"]: suite for suite in ET.fromstring(render_junit(manifest))}


def outcome(case: ET.Element) -> str:
    return next((child.tag for child in case if child.tag != "system-out"), "passed")


@pytest.mark.parametrize("manifest", EXAMPLES.values(), ids=EXAMPLES)
def test_counts_add_up(manifest: Manifest) -> None:
    root = ET.fromstring(render_junit(manifest))
    for element in (root, *root):
        cases = [outcome(case) for case in element.iter("testcase")]
        assert element.attrib["tests"] == str(len(cases))
        for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert element.attrib[key] == str(cases.count(tag))


def test_each_gate_is_a_case_with_its_own_outcome() -> None:
    found = {name: [outcome(case) for case in suite.iter("testcase")] for name, suite in suites(LABELLED).items()}
    assert found == {
        "digits-cnn.fp32": ["passed", "passed"],
        "digits-cnn.fp16": ["error", "passed"],
        "digits-cnn.bf16": ["skipped"],
        "digits-cnn.int8": ["passed", "passed"],
        "digits-cnn.int4": ["failure", "passed"],
    }


def test_the_message_is_the_evidence() -> None:
    suite = suites(LABELLED)["digits-cnn.int4"]
    assert suite.find("testcase/failure").attrib["message"] == INT4.verdict.reasons[0].removeprefix("fail: ")  # type: ignore[union-attr]
    skipped = suites(LABELLED)["digits-cnn.bf16"].find("testcase/skipped")
    assert skipped is not None
    assert "does not load in BF16" in skipped.attrib["message"]


def test_names_of_cases_do_not_change_with_the_measured_numbers() -> None:
    other = VerdictRecord(status="pass", reasons=("pass: top1 99.99", "pass: faster than FP32"))
    again = msgspec.structs.replace(LABELLED, variants=(msgspec.structs.replace(FP16, verdict=other),))
    names = [case.attrib["name"] for case in suites(again)["digits-cnn.fp16"].iter("testcase")]
    assert names == [case.attrib["name"] for case in suites(LABELLED)["digits-cnn.fp16"].iter("testcase")]


def test_names_that_xml_cannot_hold_are_replaced() -> None:
    verdict = VerdictRecord(status="fail", reasons=(f"fail: {HOSTILE} gives NaN",))
    manifest = msgspec.structs.replace(LABELLED, variants=(msgspec.structs.replace(FP16, verdict=verdict),))
    failure = suites(manifest)["digits-cnn.fp16"].find("testcase/failure")
    assert failure is not None
    assert failure.text == HOSTILE.replace("\x07", "\ufffd") + " gives NaN"


def test_a_verdict_without_gate_lines_still_has_a_case() -> None:
    bare = msgspec.structs.replace(FP16, verdict=VerdictRecord(status="inconclusive", reasons=()))
    case = suites(msgspec.structs.replace(LABELLED, variants=(bare,)))["digits-cnn.fp16"].find("testcase")
    assert case is not None
    assert outcome(case) == "error"
