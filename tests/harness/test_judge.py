"""Verdicts on canned numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import pytest

from dlc.harness.judge import Finding, Noise, judge, overall, verdicts
from dlc.manifest import (
    Accuracy,
    Agreement,
    Estimate,
    ExpectationRecord,
    Latency,
    Size,
    Status,
    VariantRecord,
    VerdictRecord,
)
from dlc.recipe import Gates, Precision

GATES = Gates()
HALF = Size(bytes=500, compressed_bytes=400, ratio=0.5)
SAME = Size(bytes=1000, compressed_bytes=800, ratio=1.0)
CLOSE = Agreement(argmax=1.0, cosine=0.999, sqnr_db=40.0, examples=599)


def estimate(low: float, value: float, high: float) -> Estimate:
    return Estimate(low=low, value=value, high=high)


def timed(low: float, value: float, high: float) -> Latency:
    ratio = estimate(low, value, high)
    return Latency(median_ms=1, mean_ms=1, p10_ms=1, p90_ms=1, runs=100, ratio=ratio, samples_ms=(1.0,))


def scored(low: float, value: float, high: float, examples: int = 599) -> Accuracy:
    """Retention as given; the rest follows from a reference of 98."""
    return Accuracy(
        metric="top1", value=estimate(98 * low, 98 * value, 98 * high), retention=estimate(low, value, high),
        drop=estimate(98 - 98 * high, 98 - 98 * value, 98 - 98 * low), examples=examples,
    )  # fmt: skip


FAST, EVEN, SLOW = timed(0.4, 0.5, 0.6), timed(0.98, 1.0, 1.01), timed(1.2, 1.3, 1.4)
DOUBTFUL = scored(0.975, 0.985, 0.995)
KEPT, UNSURE, LOST = scored(0.991, 0.995, 1.0), scored(0.985, 0.992, 0.999), scored(0.90, 0.92, 0.94)


def verdict(precision: Precision = "int8", gates: Gates = GATES, **changes: object) -> VerdictRecord:
    given = {"latency": FAST, "size": HALF, "accuracy": KEPT, "agreement": CLOSE, **changes}
    [found] = verdicts([judge(precision, gates, **given)])  # type: ignore[arg-type]
    return found


def test_every_gate_gives_a_line_with_number_interval_and_limit() -> None:
    gates = replace(GATES, max_latency_ratio=0.7, max_size_ratio=0.6)
    assert verdict(gates=gates) == VerdictRecord(
        status="pass",
        reasons=(
            "pass: top1 97.51 keeps 99.50 % of FP32 [99.10, 100.00], at least 99 %",
            "pass: latency 0.500x of FP32 [0.400, 0.600], at most 0.7x",
            "pass: size 0.500x of FP32, at most 0.6x",
            "pass: faster and smaller than FP32: latency 0.500x of FP32 [0.400, 0.600], size 0.500x",
        ),
    )


@pytest.mark.parametrize(
    ("accuracy", "status"), [(KEPT, "pass"), (UNSURE, "inconclusive"), (DOUBTFUL, "inconclusive"), (LOST, "fail")]
)
def test_the_whole_interval_of_retention_decides(accuracy: Accuracy, status: Status) -> None:
    assert verdict(accuracy=accuracy).status == status


def test_retention_at_the_gate_holds_it() -> None:
    assert verdict(accuracy=scored(0.99, 0.995, 1.0)).status == "pass"


def test_a_better_metric_passes() -> None:
    assert verdict(accuracy=scored(1.0, 1.01, 1.02)).status == "pass"


@pytest.mark.parametrize(("cosine", "status"), [(0.99, "pass"), (0.98999, "fail")])
def test_without_labels_agreement_decides_and_says_so(cosine: float, status: Status) -> None:
    agreement = Agreement(argmax=None, cosine=cosine, sqnr_db=20.0, examples=64)
    result = verdict(accuracy=None, agreement=agreement)
    assert result.status == status
    assert result.reasons[0] == f"{status}: cosine {cosine:.5f} with FP32 on 64 examples, at least 0.99"
    assert result.reasons[1] == "note: no labels: the task's metric was not measured"


def test_agreement_is_no_gate_where_there_is_a_metric() -> None:
    assert verdict(agreement=Agreement(argmax=0.5, cosine=0.5, sqnr_db=1.0, examples=599)).status == "pass"


def test_nothing_measured_is_inconclusive() -> None:
    result = verdict(accuracy=None, agreement=None)
    assert result.status == "inconclusive"
    assert "no data" in result.reasons[0]


def test_a_fault_fails_whatever_else_holds() -> None:
    result = verdict(accuracy=None, agreement=None, fault="output 'scores' holds NaN: 1 of 640 values on batch 0")
    assert result.status == "fail"
    assert result.reasons[0] == "fail: output 'scores' holds NaN: 1 of 640 values on batch 0"


@pytest.mark.parametrize(
    ("latency", "size", "status", "words"),
    [
        (FAST, HALF, "pass", "faster and smaller than FP32"),
        (FAST, SAME, "pass", "faster than FP32"),
        (SLOW, HALF, "pass", "smaller than FP32"),
        (EVEN, SAME, "inconclusive", "not shown to be faster"),
        (timed(0.9, 0.95, 1.0), SAME, "inconclusive", "not shown to be faster"),
        (timed(1.0, 1.1, 1.2), SAME, "inconclusive", "not shown to be faster"),
        (SLOW, SAME, "fail", "neither faster nor smaller than FP32"),
    ],
)
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "int4"])
def test_a_reduced_precision_must_be_worth_having(
    precision: Precision, latency: Latency, size: Size, status: Status, words: str
) -> None:
    result = verdict(precision, latency=latency, size=size)
    assert result.status == status
    assert words in result.reasons[-1]


@pytest.mark.parametrize(
    ("latency", "status"),
    [
        (FAST, "pass"),
        (EVEN, "pass"),
        (timed(1.0, 1.02, 1.04), "pass"),
        (timed(1.02, 1.05, 1.1), "inconclusive"),
        (timed(1.021, 1.05, 1.1), "fail"),
        (SLOW, "fail"),
    ],
)
def test_fp32_must_not_be_slower(latency: Latency, status: Status) -> None:
    assert verdict("fp32", latency=latency, size=SAME).status == status


def test_fp32_must_keep_the_metric() -> None:
    assert verdict("fp32", size=SAME, accuracy=LOST).status == "fail"


@pytest.mark.parametrize(
    ("limit", "status"), [(0.6, "pass"), (0.5, "inconclusive"), (0.4, "inconclusive"), (0.39, "fail")]
)
def test_latency_gate(limit: float, status: Status) -> None:
    assert verdict(gates=replace(GATES, max_latency_ratio=limit)).status == status


@pytest.mark.parametrize(("stray", "status"), [(0.01, "fail"), (0.6, "inconclusive")])
def test_no_latency_fails_within_the_noise_of_a_against_a(stray: float, status: Status) -> None:
    """Seven equal sittings, 18 % beyond the limit on a logarithm; with A against A of 60 % that is chance."""
    gates, noise = replace(GATES, max_latency_ratio=0.5), Noise(again=(stray, -stray))
    slow = msgspec.structs.replace(timed(0.59, 0.6, 0.61), logs=(math.log(0.6),) * 7)
    found = verdict(gates=gates, latency=slow, noise=noise)
    assert found.status == status
    assert "[0.590, 0.610], at most 0.5x" in found.reasons[1]


@pytest.mark.parametrize(("precision", "what"), [("fp32", "slower than stock"), ("int8", "not shown to be faster")])
def test_what_a_noisy_machine_cannot_tell_fails_no_variant(precision: Precision, what: str) -> None:
    found = verdict(precision, latency=timed(0.9, 1.3, 1.9), size=SAME)
    assert found.status == "inconclusive"
    assert what in found.reasons[-1]


@pytest.mark.parametrize(("away", "status"), [(None, "fail"), (0.1, "fail"), (0.11, "inconclusive")])
def test_a_busy_machine_fails_no_latency(away: float | None, status: Status) -> None:
    found = verdict(latency=SLOW, size=SAME, noise=Noise(away=away))
    assert found.status == status
    assert found.reasons[-1].endswith("the machine is busy") == (status == "inconclusive")


@pytest.mark.parametrize(("settled", "status"), [(4, "fail"), (3, "inconclusive")])
def test_a_model_that_does_not_warm_up_fails_no_latency(settled: int, status: Status) -> None:
    logs = (0.3,) * 7
    slow = msgspec.structs.replace(SLOW, logs=logs, settled=settled)
    assert verdict(latency=slow, size=SAME).status == status


def test_a_pass_needs_no_quiet_machine() -> None:
    gates = replace(GATES, max_latency_ratio=0.7)
    assert verdict(gates=gates, noise=Noise(again=(0.5, -0.5), away=0.9)).status == "pass"


@pytest.mark.parametrize(("gates", "status"), [(1, "fail"), (3, "inconclusive")])
def test_failures_are_corrected_for_the_number_of_gates(gates: int, status: Status) -> None:
    """p = 0.02 is below 5 % by itself, and above it among three gates: Holm makes it 0.06."""
    others = [[Finding("pass", "held", 0.5)] for _ in range(gates - 1)]
    first, *rest = verdicts([[Finding("fail", "slow", 0.02), Finding("pass", "size")], *others])
    assert first.status == status
    assert {each.status for each in rest} <= {"pass"}
    doubt = "; not beyond chance (p = 0.06 among 3 gates, 0.05 asked)"
    assert first.reasons[0] == f"{status}: slow{doubt if status == 'inconclusive' else ''}"


def test_a_failure_without_a_p_value_is_not_one_of_chance() -> None:
    first, _ = verdicts([[Finding("fail", "size")], [Finding("pass", "held", 0.5)] * 9])
    assert first == VerdictRecord(status="fail", reasons=("fail: size",))


@pytest.mark.parametrize(("limit", "status"), [(0.5, "pass"), (0.49, "fail")])
def test_size_gate(limit: float, status: Status) -> None:
    assert verdict(gates=replace(GATES, max_size_ratio=limit)).status == status


def test_the_worst_gate_decides() -> None:
    gates = replace(GATES, max_size_ratio=0.4)
    assert verdict(gates=gates, accuracy=UNSURE).status == "fail"
    assert verdict(accuracy=UNSURE, latency=SLOW, size=SAME).status == "fail"


def test_leaked_data_is_a_warning() -> None:
    result = verdict(leaked=12)
    assert result.status == "pass"
    assert result.reasons[-1] == "note: 12 calibration examples are evaluation examples: accuracy may flatter"


@pytest.mark.parametrize(("examples", "warned"), [(20, True), (299, True), (300, False)])
def test_too_few_examples_to_see_a_loss(examples: int, warned: bool) -> None:
    """Rule of three: with no change among n examples, up to 3/n may change; a 99 % gate needs 300."""
    reasons = verdict(accuracy=scored(1.0, 1.0, 1.0, examples)).reasons
    assert any("could go unseen" in r for r in reasons) == warned


def test_an_interval_with_width_has_seen_losses() -> None:
    assert not any("could go unseen" in r for r in verdict(accuracy=scored(0.9, 0.95, 1.0, examples=20)).reasons)


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["pass", "pass"], 0),
        (["pass", "inconclusive"], 5),
        (["inconclusive", "fail", "pass"], 1),
        (["pass", "not built"], 0),
        (["not built"], 1),
        ([], 1),
    ],
)
def test_exit_code(statuses: list[Status], code: int) -> None:
    variants = [VariantRecord(precision="int8", verdict=VerdictRecord(status=s, reasons=())) for s in statuses]
    assert overall(variants) == code


HIT = ExpectationRecord(
    rewrite="fuse-attention", expected=6, found=6, there=0, applied=5, reasons=("scale is not constant (2 places)",)
)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_rewrite_that_fits_at_fewer_places_than_expected_fails_every_variant(precision: Precision) -> None:
    result = verdict(precision, hits=(msgspec.structs.replace(HIT, found=4, applied=3),))
    assert result.status == "fail"
    assert (
        "fail: fuse-attention expected at 6 places, found at 4 (3 applied); elsewhere: scale is not constant (2 places)"
    ) in result.reasons


def test_a_rewrite_that_fits_nowhere_says_so() -> None:
    result = verdict(hits=(msgspec.structs.replace(HIT, found=0, applied=0, reasons=()),))
    assert any(r.endswith("elsewhere: nothing looks like what it forms") for r in result.reasons)


def test_places_that_fit_hold_the_gate_whether_applied_or_fused_before() -> None:
    result = verdict(hits=(msgspec.structs.replace(HIT, there=1),))
    assert result.status == "pass"
    assert (
        "pass: fuse-attention expected at 6 places, found at 6 (5 applied, 1 fused by the exporter)" in result.reasons
    )


def test_more_places_than_expected_pass_with_a_note() -> None:
    result = verdict(hits=(msgspec.structs.replace(HIT, found=8),))
    assert result.status == "pass"
    assert "note: fuse-attention fits at more places than expected: expect_fusions may say 8" in result.reasons


@pytest.mark.parametrize(("limit", "status"), [(0.9, "pass"), (0.5, "inconclusive"), (0.0, "fail")])
def test_a_distance_in_the_metrics_unit_may_be_the_gate(limit: float, status: Status) -> None:
    found = verdict(gates=replace(GATES, max_drop=limit), accuracy=scored(0.991, 0.995, 0.999))  # 0.1 to 0.88 behind
    assert found.status == status
    assert found.reasons[0].startswith(
        f"{status}: top1 97.51 falls 0.490 behind FP32 [0.098, 0.882], at most {limit:g}"
    )
    assert not any("keeps" in reason for reason in found.reasons)


@pytest.mark.parametrize(("least", "status"), [(None, "pass"), (0.999, "pass"), (0.9991, "fail")])
@pytest.mark.parametrize("drop", [None, 0.9])
def test_agreement_may_be_a_gate_beside_the_metric(least: float | None, status: Status, drop: float | None) -> None:
    found = verdict(gates=replace(GATES, agreement=least, max_drop=drop), accuracy=scored(0.991, 0.995, 0.999))
    assert found.status == status
    line = f"{status}: cosine 0.99900 with FP32 on 599 examples, at least {least:g}" if least else None
    assert [r for r in found.reasons if "cosine" in r] == ([line] if line else [])
    assert any("top1" in reason for reason in found.reasons)


def test_agreement_that_was_not_measured_passes_no_gate() -> None:
    found = verdict(gates=replace(GATES, agreement=0.99), agreement=None)
    assert found.status == "inconclusive"
    assert "inconclusive: agreement with FP32 was not measured" in found.reasons


def test_without_a_metric_the_stricter_cosine_holds() -> None:
    gates = replace(GATES, cosine=0.99, agreement=0.9995)
    found = verdict(gates=gates, accuracy=None)
    assert found.status == "fail"
    assert found.reasons[0] == "fail: cosine 0.99900 with FP32 on 599 examples, at least 0.9995"
