from __future__ import annotations

import msgspec
import pytest

from dlc.manifest import Status, VariantRecord, VerdictRecord
from dlc.report.table import Line, best, headline, lines, verdict_rows
from tests.report.example import BF16, EXAMPLES, FP16, FP32, INT4, INT8, LABELLED, NO_VARIANTS, UNLABELLED


def test_rows_hold_the_same_columns_for_every_variant() -> None:
    headers, rows = verdict_rows(LABELLED)
    assert headers == ("variant", "top1", "agreement", "latency ratio", "size", "peak memory", "verdict")
    assert [row[0] for row in rows] == ["FP32 reference", "fp32", "fp16", "bf16", "int8", "int4"]
    assert rows[4] == (
        "int8", "97.83 % [96.73, 98.93]", "99.33 %", "0.381× [0.370, 0.396]", "67.77 KiB (0.271×)", "59.12 MiB", "pass"
    )  # fmt: skip
    assert rows[3] == ("bf16", "–", "–", "–", "–", "–", "not built")
    assert {len(row) for row in rows} == {len(headers)}


def test_without_a_metric_agreement_is_the_cosine() -> None:
    headers, rows = verdict_rows(UNLABELLED)
    assert headers[1] == "metric"
    assert rows[2][1:3] == ("–", "cosine 0.99931")


@pytest.mark.parametrize(
    ("variants", "status"),
    [((FP32, INT8), "pass"), ((FP32, FP16), "inconclusive"), ((FP32, FP16, INT4), "fail"),
     ((FP32, BF16), "pass"), ((BF16,), "not built"), ((), "not built")],
)  # fmt: skip
def test_the_worst_of_what_was_built_decides(variants: tuple[VariantRecord, ...], status: Status) -> None:
    assert headline(msgspec.structs.replace(LABELLED, variants=variants)).status == status


def test_headline_counts_every_variant() -> None:
    assert headline(LABELLED).summary == "5 variants: 2 pass, 1 fails, 1 inconclusive, 1 not built"
    assert headline(NO_VARIANTS).summary == "0 variants: none"


def test_best_is_the_fastest_that_passes() -> None:
    assert best(LABELLED) == INT8
    assert best(EXAMPLES["nothing built"]) is None


def test_lines_are_read_by_their_first_word() -> None:
    verdict = VerdictRecord(status="fail", reasons=("fail: a: b", "note: c", "pass: d", "inconclusive: e", "Conv: f"))
    assert lines(verdict) == [
        Line("fail", "a: b"), Line(None, "c"), Line("pass", "d"), Line("inconclusive", "e"), Line(None, "Conv: f"),
    ]  # fmt: skip
