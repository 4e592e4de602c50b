"""The verdicts as JUnit XML, for the test views of CI systems.

One test suite a variant, one test case a gate. A gate that fails is a ``failure``. One that is inconclusive is an
``error``: nobody may merge on it unseen, and ``dlc`` exits with a code other than 0. A variant that was not built is
``skipped``, with its reason. Names of test cases hold no measured number: CI systems know a test again by its name.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from dlc.manifest import Manifest, VariantRecord
from dlc.report.numbers import legible
from dlc.report.table import Line, lines

OUTCOMES = {"fail": "failure", "inconclusive": "error", "not built": "skipped"}


def render_junit(manifest: Manifest) -> str:
    """Render a manifest as JUnit XML."""
    root = ET.Element("testsuites", name=legible(f"dlc {manifest.name}"))
    for variant in manifest.variants:
        _suite(root, manifest.name, variant)
    count(root, list(root.iter("testcase")))
    return document(root)


def document(root: ET.Element) -> str:
    """Write an element as a whole file."""
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _suite(root: ET.Element, model: str, variant: VariantRecord) -> None:
    suite = ET.SubElement(root, "testsuite", name=legible(f"{model}.{variant.precision}"))
    found = lines(variant.verdict)
    gates = [line for line in found if line.status]
    notes = [line.text for line in found if not line.status]
    if variant.verdict.status == "not built" or not gates:
        verdict_case(suite, "verdict", Line(variant.verdict.status, "; ".join(notes) or variant.verdict.status))
    for number, line in enumerate(gates, start=1):
        verdict_case(suite, f"gate {number}", line)
    if remarks := [*notes, *variant.notes]:
        ET.SubElement(suite, "system-out").text = legible("\n".join(remarks))
    count(suite, suite.findall("testcase"))


def verdict_case(suite: ET.Element, name: str, line: Line) -> None:
    """Add a test case with the outcome of one line."""
    case = ET.SubElement(suite, "testcase", classname=suite.attrib["name"], name=name, time="0")
    if line.status in OUTCOMES:
        outcome = ET.SubElement(case, OUTCOMES[line.status], message=legible(line.text.partition("\n")[0]))
        if line.status != "not built":
            outcome.set("type", line.status)
            outcome.text = legible(line.text)
    else:
        ET.SubElement(case, "system-out").text = legible(line.text)


def count(element: ET.Element, cases: list[ET.Element]) -> None:
    """State how many cases an element holds, and how they ended."""
    element.set("tests", str(len(cases)))
    for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(key, str(sum(case.find(tag) is not None for case in cases)))
