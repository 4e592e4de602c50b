"""What is kept of FP32's quality, told without labels: against what labels would have told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from dlc.errors import ModelError
from dlc.harness.accuracy import METRICS, Metric
from dlc.harness.retention import kept
from dlc.interface import Interface, TensorType
from dlc.recipe import Dataset
from dlc.runtimes.base import Runner
from dlc.types import Array, Feeds, Outputs

RNG = np.random.default_rng(0)
CLASSES = 20
X = TensorType("x", "float32", ("n", CLASSES))


@dataclass
class Function(Runner):
    """Runs a function of x."""

    function: Callable[[Array], Array]
    interface: Interface = field(default_factory=lambda: Interface((X,), (X,)))

    def infer(self, feeds: Feeds) -> Outputs:
        return {"y": self.function(feeds["x"])}


FP32 = Function(lambda x: x)


def noisy(spread: float) -> Function:
    """Errors that depend on the example, the same each time."""
    return Function(lambda x: x + spread * np.sin(1e4 * x + np.arange(CLASSES)).astype(np.float32))


def scores(examples: int, seed: int = 0) -> Array:
    return 2 * np.random.default_rng(seed).standard_normal((examples, CLASSES)).astype(np.float32)


def data(x: Array, targets: Array | None = None) -> Dataset:
    def batches() -> Iterator[Feeds]:
        return ({"x": x[i : i + 25]} for i in range(0, len(x), 25))

    return Dataset("scores", batches, None if targets is None else lambda: targets)


def test_equal_outputs_keep_everything() -> None:
    found = kept(FP32, FP32, data(scores(50)), METRICS["top1"], None, RNG)
    assert (found.share.value, found.share.low, found.loss) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize("spread", [0.1, 0.3])
def test_the_expected_share_is_the_share_of_right_answers_over_many_examples(spread: float) -> None:
    """Labels drawn as FP32 believes; the share of 40,000 of them is known to +-0.2 % (of changed ones, a fraction)."""
    many = scores(40_000, seed=1)
    p = np.exp(many) / np.exp(many).sum(axis=1, keepdims=True)
    rows = np.arange(len(many))
    right, changed = p[rows, many.argmax(1)], p[rows, noisy(spread).function(many).argmax(1)]
    truth = changed.sum() / right.sum()
    share = kept(FP32, noisy(spread), data(scores(2000, seed=2)), METRICS["top1"], None, RNG).share
    assert 1 - share.value == pytest.approx(1 - truth, rel=0.5)  # the error is a sine's, not normal
    assert share.low <= share.value <= share.high


def test_probabilities_tell_the_same_as_the_scores_that_they_come_from() -> None:
    def softmax(function: Function) -> Function:
        def apply(x: Array) -> Array:
            powers = np.exp(function.function(x).astype(np.float64))
            shares: Array = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
            return shares

        return Function(apply)

    x = data(scores(200))
    raw = kept(FP32, noisy(0.1), x, METRICS["top1"], None, np.random.default_rng(0))
    out = kept(softmax(FP32), softmax(noisy(0.1)), x, METRICS["top1"], None, np.random.default_rng(0))
    assert out.share.value == pytest.approx(raw.share.value, abs=1e-5)  # probabilities above 1e-3 rounded to 6e-8
    assert out.loss == pytest.approx(raw.loss, rel=1e-3)


def test_fifty_examples_order_what_changed_choices_cannot() -> None:
    few = data(scores(50))
    small, large = (kept(FP32, noisy(s), few, METRICS["top1"], None, RNG) for s in (0.004, 0.01))
    for spread in (0.004, 0.01):
        assert (noisy(spread).function(scores(50)).argmax(1) == scores(50).argmax(1)).all()
    assert small.share.value > large.share.value
    assert small.loss < large.loss


def test_labels_that_contradict_are_right() -> None:
    x = scores(100)
    worse = Function(lambda x: np.where(np.arange(CLASSES) < 10, x - 1, x))
    believed = kept(FP32, worse, data(x), METRICS["top1"], None, RNG).share
    labelled = kept(FP32, worse, data(x, x.argmax(1)), METRICS["top1"], None, RNG).share
    assert labelled.value == (worse.function(x).argmax(1) == x.argmax(1)).mean()
    assert labelled.high < believed.low


def test_a_metric_without_classes_takes_the_predictions_of_fp32_for_the_truth() -> None:
    x, first = scores(50), lambda _, outputs: outputs["y"][:, 0]
    share = kept(FP32, noisy(0.1), data(x), METRICS["spearman"], first, RNG).share
    assert 0.98 < share.value < 1.0
    assert kept(FP32, FP32, data(x), METRICS["spearman"], first, RNG).share.value == pytest.approx(1.0, abs=1e-12)


def unusable(_: Array, __: Array) -> Array:
    raise ValueError("targets are words")


@pytest.mark.parametrize("metric", [None, Metric("words", "", unusable, lambda rows: float(rows.mean()))])
def test_else_it_is_the_cosine(metric: Metric | None) -> None:
    x = scores(50)
    share = kept(FP32, noisy(0.1), data(x), metric, None, RNG).share
    y = noisy(0.1).function(x)
    cosine = (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))
    assert share.value == pytest.approx(cosine.mean(), abs=1e-6)  # float32 sums of 20 terms


def test_outputs_of_no_use_are_an_error() -> None:
    broken = Function(lambda x: np.where(x > 3, np.nan, x))
    with pytest.raises(ModelError, match="'y' holds NaN or infinity on batch 0"):
        kept(FP32, broken, data(scores(50)), None, None, RNG)


def test_of_an_error_no_share_is_told_without_labels() -> None:
    """With FP32's outputs for targets its error is the least there is, and a share of that says nothing."""
    x = scores(50)
    perplexity = replace(METRICS["mae"], statistic=lambda rows: float(np.exp(rows.mean())))  # 1 without an error
    found = kept(FP32, noisy(0.5), data(x), perplexity, None, RNG).share
    own = noisy(0.5).function(x)
    cosine = ((x * own).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(own, axis=1)).mean()
    assert found.value == pytest.approx(cosine, rel=1e-5)  # x and own are FP32: 20 products, rounded


def test_of_an_error_labels_tell_the_share() -> None:
    x = scores(50)
    found = kept(FP32, Function(lambda x: 3 * x), data(x, 2 * x), METRICS["mae"], None, RNG).share
    assert found.value == pytest.approx(1.0)
    worse = kept(FP32, Function(lambda x: 4 * x), data(x, 2 * x), METRICS["mae"], None, RNG).share
    assert worse.value == pytest.approx(0.5)
