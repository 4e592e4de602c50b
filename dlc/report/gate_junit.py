"""The lines of a gate as JUnit XML: a suite a variant, a case a gate, named alike in every run."""

from __future__ import annotations

from itertools import groupby
from xml.etree import ElementTree as ET

from dlc.gate.flow import Outcome
from dlc.gate.lines import Line
from dlc.report.junit import count, document, verdict_case
from dlc.report.numbers import legible
from dlc.report.table import Line as Evidence


def render_gate_junit(outcome: Outcome) -> str:
    """Render an outcome; a failure names its class, the suspects and what to do next."""
    root = ET.Element("testsuites", name=legible(f"dlc gate {outcome.now.model}"))
    for variant, lines in groupby(outcome.lines, key=lambda line: line.variant):
        suite = ET.SubElement(root, "testsuite", name=legible(f"{outcome.now.model}.{variant}"))
        found = list(lines)
        for line in found:
            if line.status:
                verdict_case(suite, line.gate, Evidence(line.status, _text(line, outcome)))
        if remarks := [f"{line.gate}: {line.reason}" for line in found if not line.status]:
            ET.SubElement(suite, "system-out").text = legible("\n".join(remarks))
        count(suite, suite.findall("testcase"))
    count(root, list(root.iter("testcase")))
    return document(root)


def _text(line: Line, outcome: Outcome) -> str:
    blame = outcome.blame_of().get(line.name)
    if blame is None:
        return line.reason
    return "\n".join([line.reason, *blame.lines()])
