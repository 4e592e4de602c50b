from __future__ import annotations

import msgspec

from dlc.manifest import Size
from dlc.report.delivery import compressed_cell, delivery_rows
from dlc.report.html import render_html
from tests.report.example import LABELLED, NO_VARIANTS


def test_a_row_for_each_model_that_was_built() -> None:
    headers, rows = delivery_rows(LABELLED)
    assert [row[0] for row in rows] == ["FP32 reference", "fp32", "fp16", "int8", "int4"]
    assert {len(row) for row in rows} == {len(headers)}
    int8 = next(v for v in LABELLED.variants if v.precision == "int8")
    assert int8.latency is not None
    assert rows[3][1:5] == ("67.77 KiB", "61.00 KiB (90 %)", "9.700 ms", "0.4200 ms")
    assert rows[3][5] == f"{int8.latency.median_ms:.4f} ms"
    assert rows[2][3:5] == ("–", "–")  # of a manifest that an earlier dlc wrote
    assert [row[0] for row in delivery_rows(NO_VARIANTS)[1]] == ["FP32 reference"]


def test_nothing_compresses_to_nothing() -> None:
    assert compressed_cell(Size(bytes=0, compressed_bytes=8, ratio=1.0)) == "8 B (800 %)"


def test_the_page_shows_what_was_measured() -> None:
    page = render_html(LABELLED, {})
    assert "61.00 KiB (90 %)" in page
    assert "9.920 ms" in page
    old = msgspec.structs.replace(LABELLED.reference, start=None)
    assert "9.920 ms" not in render_html(msgspec.structs.replace(LABELLED, reference=old), {})
