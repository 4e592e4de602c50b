"""How much of FP32's quality a model keeps, told without labels, from few examples; batch by batch.

A changed choice among classes is rare, and a few dozen examples hold none or one. Each example tells more: by how much
its scores moved, and how far apart its classes are. FP32 chooses class c with probability p_c. Were the error of a
difference of scores normal, of the spread sigma that is measured over all examples, class j would win with probability
``Phi((z_j - z_c) / sigma)``; then the expected share of right answers falls from p_c to p_j:

    kept = 1 - sum_x sum_j Phi((z_j - z_c) / sigma) (p_c - p_j)  /  sum_x p_c         j: the runners-up

Where there are no classes, it is the task's metric with FP32's predictions for targets, else the cosine of outputs.
Where examples are labelled, and the labels contradict that, the labels are right.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dlc.errors import DataError, ModelError, RecipeError
from dlc.harness import statistics
from dlc.harness.accuracy import Metric, Prediction, first_output, metric_rows, predicted
from dlc.harness.agreement import AgreementMeter
from dlc.manifest import Agreement, Estimate
from dlc.recipe import Dataset
from dlc.runtimes.base import Runner
from dlc.types import Array, Floats

RIVALS = 5
"""Runners-up that may win; those behind them need a larger error still."""


EPS = float(np.finfo(np.float32).eps)
"""Rounding of a probability, and the least that is told from 0."""


@dataclass(frozen=True, slots=True)
class Kept:
    """``share`` of FP32's quality. ``loss``: a measure of the error that adds up over small independent errors."""

    share: Estimate
    loss: float


def kept(
    reference: Runner, candidate: Runner, data: Dataset, metric: Metric | None, prediction: Prediction | None,
    rng: np.random.Generator,
) -> Kept:  # fmt: skip
    """Run both over the data, once; ModelError if the candidate's outputs are of no use."""
    meter, contest, predictions = AgreementMeter(), Contest(), list[tuple[Array, Array]]()
    for index, feeds in enumerate(data.batches()):
        expected, outputs = reference.run(feeds), candidate.run(feeds)
        for name, array in outputs.items():
            if array.dtype.kind == "f" and (~np.isfinite(array) & (array != expected[name])).any():
                raise ModelError(f"output {name!r} holds NaN or infinity on batch {index}")
        meter.add(outputs, expected, batch=next((len(a) for a in feeds.values() if a.ndim), 1))
        if metric is not None:
            both = [predicted(prediction or first_output, feeds, o, index) for o in (expected, outputs)]
            predictions.append((both[0], both[1]))
            if metric.classes and both[0].ndim == 2 and both[0].shape[1] > 1:
                contest.add(*both)
    if metric is None:
        return _alike(meter.result())
    stated, own = (np.concatenate(each) for each in zip(*predictions, strict=True))
    found = contest.kept(rng) if contest.rows else _as_scored(metric, stated, own, meter.result(), rng)
    if data.targets is None:
        return found
    targets = data.targets()
    rows = [metric_rows(metric, each, targets, data.name) for each in (stated, own)]
    labelled = statistics.paired(
        rows[0], rows[1], metric.statistic, rng=rng, higher_is_better=metric.higher_is_better
    ).retention
    return Kept(labelled, found.loss) if labelled.high < found.share.low else found


def _as_scored(metric: Metric, stated: Array, own: Array, agreement: Agreement, rng: np.random.Generator) -> Kept:
    """Score predictions as if FP32's were the truth, where the metric takes them for targets; else by cosine.

    Of an error there is no share: FP32's own is 0. A metric may ask anything of its targets, words or boxes; what it
    does with real ones is told where the data has them.
    """
    if not metric.higher_is_better:
        return _alike(agreement)
    try:
        rows = [metric_rows(metric, each, stated, "predictions of FP32") for each in (stated, own)]
        share = statistics.paired(rows[0], rows[1], metric.statistic, rng=rng).retention
    except (RecipeError, DataError):
        return _alike(agreement)
    return Kept(share, _noise(agreement))


def _alike(agreement: Agreement) -> Kept:
    cosine = agreement.cosine
    return Kept(Estimate(value=cosine, low=cosine, high=cosine), _noise(agreement))


def _noise(agreement: Agreement) -> float:
    """Energy of the error as a share of the signal's."""
    return float(10 ** (-agreement.sqnr_db / 10))


@dataclass(slots=True)
class Contest:
    """Scores of FP32 beside a candidate's. Margins and errors are those of FP32's choice over its rivals, [b, r]."""

    rows: list[Floats] = field(default_factory=list)

    def add(self, expected: Array, scores: Array) -> None:
        """Add a batch of scores, [b, classes]; probabilities count as their logarithms."""
        z, y = expected.astype(np.float64), scores.astype(np.float64)
        if (z >= 0).all() and np.allclose(z.sum(axis=1), 1.0, atol=z.shape[1] * EPS):  # a Softmax is at the end
            z, y = np.log(np.maximum(z, EPS)), np.log(np.maximum(y, EPS))
        order = np.argsort(-z, axis=1, kind="stable")[:, : RIVALS + 1]
        top, error = np.take_along_axis(z, order, 1), np.take_along_axis(y - z, order, 1)
        chance = np.take_along_axis(np.exp(_log_softmax(z)), order, 1)
        self.rows.append(np.stack([
            top[:, :1] - top[:, 1:], error[:, :1] - error[:, 1:], chance[:, :1] - chance[:, 1:],
            np.broadcast_to(chance[:, :1], chance[:, 1:].shape),
        ], axis=-1))  # fmt: skip

    def kept(self, rng: np.random.Generator) -> Kept:
        """Return the expected share, and sigma² as the loss: what the share follows from, and variances add up."""
        rows = np.concatenate(self.rows)
        return Kept(statistics.metric(rows, _expected_share, rng=rng), _spread(rows) ** 2)


def _expected_share(rows: Floats) -> float:
    """Take the margin, its error, what a change costs, and the probability of the choice, from rows [n, r, 4]."""
    from scipy.special import ndtr

    margin, _, cost, chance = np.moveaxis(rows, -1, 0)
    spread = _spread(rows)
    if spread == 0.0 or chance[:, 0].sum() == 0:
        return 1.0
    return 1.0 - float((ndtr(-margin / spread) * cost).sum()) / float(chance[:, 0].sum())


def _spread(rows: Floats) -> float:
    """Root mean square of the errors of margins, rows [n, r, 4]."""
    return float(np.sqrt((rows[..., 1] ** 2).mean()))


def _log_softmax(z: Floats) -> Floats:
    shifted = z - z.max(axis=1, keepdims=True)
    logged: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logged
