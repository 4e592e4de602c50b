from __future__ import annotations

import msgspec
import pytest

from dlc.manifest import Manifest
from dlc.report.delivery import delivery_rows
from dlc.report.markdown import cell, render_markdown
from dlc.report.table import verdict_rows
from tests.report.example import EXAMPLES, HOSTILE, LABELLED, large

COMMENT_LIMIT = 65_536
"""Characters that GitHub accepts in one comment."""


def table_of(page: str) -> list[list[str]]:
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    return [[text.strip().replace("\\", "") for text in row.strip("|").split(" | ")] for row in rows]


@pytest.mark.parametrize("manifest", EXAMPLES.values(), ids=EXAMPLES)
def test_the_table_is_the_one_of_the_terminal(manifest: Manifest) -> None:
    headers, rows = verdict_rows(manifest)
    found = table_of(render_markdown(manifest))
    assert found[0] == list(headers)
    assert found[2 : 2 + len(rows)] == [list(row) for row in rows]
    headers, rows = delivery_rows(manifest)
    assert found[-len(rows) - 2] == list(headers)
    assert found[-len(rows) :] == [list(row) for row in rows]


def test_every_reason_note_and_warning_is_there() -> None:
    page = render_markdown(LABELLED).replace("\\", "")
    for variant in LABELLED.variants:
        for reason in (*variant.verdict.reasons, *variant.notes):
            assert reason.removeprefix(f"{reason.split(':')[0]}: ") in page
    assert LABELLED.warnings[0] in page


def test_the_verdict_stands_first() -> None:
    assert render_markdown(LABELLED).splitlines()[0] == "### ❌ dlc: digits-cnn: fail"


def test_names_from_a_model_stay_text() -> None:
    assert cell(HOSTILE) == "\\<script\\>alert('x')\\</script\\>&amp;\ufffd\\|\\`"
    assert cell("a\n\n# b") == "a \\# b"
    assert "@team" not in cell("@team")


def test_a_big_model_fits_into_one_comment() -> None:
    manifest, _ = large()
    loud = msgspec.structs.replace(manifest, warnings=tuple(f"warning {i}: {'x' * 900}" for i in range(500)))
    page = render_markdown(loud)
    assert len(page) < COMMENT_LIMIT
    assert "and 480 more in manifest.json" in page
