from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy

from dlc.harness.agreement import SQNR_MAX, AgreementMeter, held, in_words
from dlc.manifest import Agreement
from dlc.types import Array


def agreement(*pairs: tuple[Array, Array]) -> Agreement:
    """Agreement of one output over batches of (candidate, reference)."""
    meter = AgreementMeter(classes=True)
    for a, b in pairs:
        meter.add({"y": a}, {"y": b}, batch=len(b))
    return meter.result()


def test_the_definitions(rng: np.random.Generator) -> None:
    b = rng.standard_normal((20, 6))
    a = b + 0.1 * rng.standard_normal((20, 6))
    result = agreement((a, b))
    cosines = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]
    # 20 terms in another order, float64
    assert result.cosine == pytest.approx(np.mean(cosines), rel=4 * 20 * 2.3e-16)
    assert result.sqnr_db == pytest.approx(10 * np.log10((b**2).sum() / ((a - b) ** 2).sum()), rel=4 * 120 * 2.3e-16)
    assert result.argmax == np.mean(a.argmax(axis=1) == b.argmax(axis=1))
    assert result.examples == 20


def test_divergence_is_scipys(rng: np.random.Generator) -> None:
    b = 3 * rng.standard_normal((20, 6))
    a = b + 0.1 * rng.standard_normal((20, 6))
    wanted = float(np.mean(entropy(softmax(b, axis=1), softmax(a, axis=1), axis=1)))
    # each logarithm errs by a few eps of up to 20 nats; weighted by probabilities, their sum by no more
    assert agreement((a, b)).kl == pytest.approx(wanted, rel=0, abs=4 * 20 * 2.3e-16)
    assert agreement((a[:7], b[:7]), (a[7:], b[7:])).kl == pytest.approx(wanted, rel=0, abs=4 * 20 * 2.3e-16)
    swapped = agreement((b, a)).kl
    assert swapped is not None
    assert abs(swapped - wanted) > 1e-5  # of the candidate from the reference, not the other way round


def test_divergence_of_extreme_scores_is_finite() -> None:
    """Where exp(-1000) is 0 the logarithm still is -1000; a class that a mask hides has no share in it."""
    assert agreement((np.array([[1000.0, 0.0]]), np.array([[0.0, 1000.0]]))).kl == 1000.0
    masked, open_ = np.array([[1.0, 2.0, -np.inf]]), np.array([[2.0, 1.0, 5.0]])
    assert agreement((masked, open_)).kl == agreement((masked[:, :2], open_[:, :2])).kl
    assert agreement((np.full((1, 3), np.nan), open_)).kl == 0.0


@settings(derandomize=True, deadline=None)
@given(cut=st.integers(1, 19), seed=st.integers(0, 9))
def test_batching_does_not_matter(cut: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    b = rng.standard_normal((20, 3, 2))
    a = b + rng.standard_normal(b.shape)
    whole, parts = agreement((a, b)), agreement((a[:cut], b[:cut]), (a[cut:], b[cut:]))
    # the same sums of 120 terms in another order, float64; a cosine near 0 keeps the absolute error of its terms
    assert parts.cosine == pytest.approx(whole.cosine, rel=0, abs=4 * 120 * 2.3e-16)
    assert parts.sqnr_db == pytest.approx(whole.sqnr_db, rel=0, abs=10 * 4 * 120 * 2.3e-16)
    assert parts.examples == whole.examples


def test_equal_outputs_are_finite_in_json() -> None:
    b = np.ones((2, 3), np.float32)
    result = agreement((b, b))
    assert (result.cosine, result.sqnr_db, result.argmax, result.kl) == (1.0, SQNR_MAX, 1.0, 0.0)
    assert msgspec.json.decode(msgspec.json.encode(result), type=Agreement) == result


def test_zero_rows() -> None:
    zero, one = np.zeros((1, 3)), np.ones((1, 3))
    assert agreement((zero, zero)).cosine == 1.0
    assert agreement((one, zero)).cosine == 0.0
    assert agreement((one, zero)).sqnr_db == -SQNR_MAX
    assert agreement((zero, one)).sqnr_db == 0.0


def test_the_worst_output_counts(rng: np.random.Generator) -> None:
    b = rng.standard_normal((5, 8))
    meter = AgreementMeter(classes=True)
    meter.add({"good": b, "bad": -b}, {"good": b, "bad": b}, batch=5)
    result = meter.result()
    assert result.cosine == pytest.approx(-1.0, rel=8 * 2.3e-16)
    assert result.sqnr_db == pytest.approx(-20 * np.log10(2), rel=4 * 40 * 2.3e-16)


def test_an_output_without_a_batch_axis_is_one_row() -> None:
    meter = AgreementMeter(classes=True)
    meter.add({"y": np.array([1.0, 0.0])}, {"y": np.array([1.0, 1.0])}, batch=7)
    assert meter.result().cosine == pytest.approx(np.sqrt(0.5), rel=4 * 2.3e-16)


def test_classes_of_a_later_output_are_not_scores() -> None:
    meter = AgreementMeter(classes=True)
    outputs = {"first": np.ones((4, 2, 2)), "second": np.eye(4)}
    meter.add(outputs, outputs, batch=4)
    assert meter.result().argmax is None


def test_embeddings_have_no_classes(rng: np.random.Generator) -> None:
    """Vectors [n, width] look like scores; only the metric knows that they are none."""
    vectors = rng.normal(size=(4, 8))
    meter = AgreementMeter()
    meter.add({"y": vectors}, {"y": vectors}, batch=4)
    assert (meter.result().argmax, meter.result().kl) == (None, None)


def test_nothing_agrees_with_nothing() -> None:
    empty = np.zeros((0, 4), np.float32)
    assert agreement((empty, empty)).cosine == 1.0
    b = np.ones((3, 4))
    assert agreement((empty, empty), (-b, b)).cosine == -1.0


def test_each_example_counts_by_its_worst_output(rng: np.random.Generator) -> None:
    y, z = rng.standard_normal((3, 4)), rng.standard_normal((3, 2, 2))
    noise = np.array([0.0, 0.1, 0.01])
    meter = AgreementMeter()
    meter.add({"y": y, "z": z * (1 + noise[:, None, None])}, {"y": y, "z": z}, batch=3)
    meter.add({"y": np.zeros((1, 4))}, {"y": np.ones((1, 4))}, batch=1)
    meter.add({"y": np.ones((1, 4))}, {"y": np.zeros((1, 4))}, batch=1)
    # a relative noise of r is 20 log10(1/r) dB; z (1 + r) - z loses the digits of 1/r: 100 eps of r, 1e-12 dB
    assert meter.each_db() == pytest.approx([SQNR_MAX, 20.0, 40.0, 0.0, -SQNR_MAX], abs=1e-9)


def test_an_output_without_rows_counts_for_its_batch() -> None:
    meter = AgreementMeter()
    meter.add({"total": np.array(1.1)}, {"total": np.array(1.0)}, batch=2)
    assert meter.each_db() == pytest.approx([20.0, 20.0])  # 0.1 of 1: 20 dB


def spread(low: float, n: int = 200) -> AgreementMeter:
    """Cosines from ``low`` to 1, the mean in the middle: a vector turned away from another by a known angle."""
    meter = AgreementMeter()
    cosines = np.linspace(low, 1, n)
    turned = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)
    meter.add({"y": turned}, {"y": np.tile([1.0, 0.0], (n, 1))}, batch=n)
    return meter


def test_the_mean_cosine_has_an_interval_on_request(rng: np.random.Generator) -> None:
    """Of uniform cosines the mean's standard error is width / sqrt(12 n); the bootstrap's own error is 5 % of that."""
    plain, found = spread(0.98).result(), spread(0.98).result(rng)
    assert (plain.interval, plain.error) == (None, None)
    assert found.interval is not None
    error = 0.02 / np.sqrt(12 * 200)
    assert found.error == pytest.approx(error, rel=0.01)
    assert found.cosine == pytest.approx(0.99)
    assert found.interval == pytest.approx((0.99 - 1.96 * error, 0.99 + 1.96 * error), abs=0.2 * error)


def test_the_interval_is_that_of_the_worst_output(rng: np.random.Generator) -> None:
    meter = AgreementMeter()
    one, turned = np.tile([1.0, 0.0], (8, 1)), np.tile([0.6, 0.8], (8, 1))
    meter.add({"good": one, "bad": turned}, {"good": one, "bad": one}, batch=8)
    found = meter.result(rng)
    assert found.cosine == pytest.approx(0.6)
    assert found.interval == pytest.approx((0.6, 0.6))


def test_one_example_has_no_interval(rng: np.random.Generator) -> None:
    found = spread(0.98, n=1).result(rng)
    assert (found.interval, found.error) == (None, None)
    assert held(found, 0.9) == ("pass", None)
    assert in_words(found, 0.9) == "cosine 0.98000 with FP32 on 1 examples, at least 0.9"


def test_outputs_without_a_row_an_example_have_no_p_value(rng: np.random.Generator) -> None:
    meter = AgreementMeter()
    for _ in range(4):
        meter.add({"y": np.ones(3)}, {"y": np.ones(3)}, batch=8)
    found = meter.result(rng)
    assert (found.interval, found.error) == ((1.0, 1.0), None)


@pytest.mark.parametrize(
    ("least", "status"), [(0.985, "pass"), (0.9895, "inconclusive"), (0.9905, "inconclusive"), (0.995, "fail")]
)
def test_the_whole_interval_of_the_cosine_decides(least: float, status: str, rng: np.random.Generator) -> None:
    found = spread(0.98).result(rng)
    outcome, p = held(found, least)
    assert outcome == status
    assert p is not None
    assert (p < 0.025) == (status == "fail")
    assert found.interval is not None
    low, high = found.interval
    assert in_words(found, least).startswith(f"cosine 0.99000 with FP32 [{low:.5f}, {high:.5f}] on 200 examples")


@pytest.mark.parametrize(("least", "p"), [(1.0, 1.0), (1.01, 0.0)])
def test_cosines_without_spread(least: float, p: float, rng: np.random.Generator) -> None:
    assert held(spread(1.0).result(rng), least)[1] == p


def test_what_is_no_number_where_one_is_stated_counts_as_lost() -> None:
    stated = np.array([[3.0, 4.0], [1.0, 1.0]])
    spoiled = np.where(stated == 4.0, np.nan, stated)
    meter = AgreementMeter()
    meter.add({"y": spoiled}, {"y": stated}, batch=2)
    assert meter.result().sqnr_db == pytest.approx(10 * np.log10(27 / 16))
    assert meter.result().cosine == pytest.approx((3 / 5 + 1) / 2)


def test_where_no_number_is_stated_any_will_do() -> None:
    meter = AgreementMeter()
    meter.add({"y": np.array([[3.0, 7.0]])}, {"y": np.array([[3.0, np.inf]])}, batch=1)
    assert meter.result().cosine == pytest.approx(1.0)
