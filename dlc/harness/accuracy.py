"""Accuracy of models on a data set: the task's metric, and agreement with a reference, all models side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from dlc import manifest
from dlc.errors import DataError, DlcError, ModelError, RecipeError
from dlc.harness.agreement import AgreementMeter
from dlc.harness.boxes import matched_boxes, mean_average_precision
from dlc.harness.choices import agreeing_tokens, chosen, class_numbers, macro_f1, recalled, share_of_counts, top_hits
from dlc.harness.detection import area_under_curve, equal_error_rate, verification_rows
from dlc.harness.masks import mean_iou, overlaps
from dlc.harness.sequences import run
from dlc.harness.signals import psnr, si_snr, ssim
from dlc.progress import Progress, Silent
from dlc.recipe import Dataset, Unchecked, suggest
from dlc.runtimes.base import Runner
from dlc.types import Array, Feeds, Floats, Outputs


@dataclass(frozen=True, slots=True)
class Metric:
    """A task metric that can be resampled example by example.

    ``rows`` turns predictions [n, ...] and targets [n, ...] into values per example, [n, k]. ``statistic`` turns any
    selection of those rows into the metric. ``classes``: the first output scores classes, so that agreement with the
    reference counts equal choices. ``higher_is_better``: False for errors.
    """

    name: str
    unit: str
    rows: Callable[[Array, Array], Floats]
    statistic: Callable[[Floats], float]
    classes: bool = False
    higher_is_better: bool = True


Prediction = Callable[[Feeds, Outputs], Array]
"""Feeds and outputs of one batch to one row per example, [b, ...]."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model on one data set.

    ``rows``: the metric's values per example, None without metric or targets. ``fault``: why the model's outputs are of
    no use (NaN, a failed run); then there are no rows and no agreement.
    """

    examples: int
    rows: Floats | None = None
    agreement: manifest.Agreement | None = None
    fault: str | None = None


def evaluate(
    runners: Mapping[str, Runner], dataset: Dataset, *, reference: str, metric: Metric | None = None,
    prediction: Prediction | None = None, state: Mapping[str, str] | None = None, seed: int = 0,
    progress: Progress = Silent(),  # noqa: B008 - has no state
) -> dict[str, Evaluation]:  # fmt: skip
    """Run all models batch by batch over one pass of the data; what stays in memory is predictions only.

    ``seed``: of the interval of the agreement.

    The reference must run, and run cleanly; another model that fails is a finding, recorded as its ``fault``.
    ``state``: input to the output that is fed back to it; then a batch is a sequence (``harness.sequences``),
    and one example where agreement is measured: the cosine of a single chance, say, would tell nothing.
    """
    fed_back = state or {}
    targets = dataset.targets() if metric and dataset.targets else None
    predict = None if targets is None else prediction or first_output
    classes = metric is not None and metric.classes
    tracks = {name: _Track(AgreementMeter(classes=classes)) for name in runners}
    for index, feeds in enumerate(dataset.batches()):
        expected = _reference_outputs(runners[reference], feeds, fed_back, index)
        examples = 1 if fed_back else _leading(feeds)
        for name, runner in runners.items():
            track = tracks[name]
            if track.fault is None:
                outputs: Outputs | None = expected
                if name != reference:
                    outputs = _candidate_outputs(runner, feeds, fed_back, expected, index, track)
                if outputs is not None:
                    track.meter.add(outputs, expected, batch=examples)
                    if predict is not None:
                        track.predictions.append(predicted(predict, feeds, outputs, index))
        progress.advance()
    if tracks[reference].meter.batches == 0:
        raise DataError(
            f"data set {dataset.name!r} gave no batch; batches() must return a fresh iterable at every call"
        )
    return {
        name: _result(
            track, metric if targets is not None else None, targets, dataset.name, seed, is_reference=name == reference
        )
        for name, track in tracks.items()
    }


@dataclass
class _Track:
    """What is kept of one model while the data streams by."""

    meter: AgreementMeter
    predictions: list[Array] = field(default_factory=list)
    fault: str | None = None


def _reference_outputs(runner: Runner, feeds: Feeds, state: Mapping[str, str], batch: int) -> Outputs:
    outputs = run(runner, feeds, state)
    for name, array in outputs.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise ModelError(
                f"the reference ({runner.name}) gives NaN in output {name!r} on batch {batch}: nothing can be judged "
                f"against it; check the model's weights and that the data is preprocessed as in training"
            )
    return outputs


def _candidate_outputs(
    runner: Runner, feeds: Feeds, state: Mapping[str, str], expected: Outputs, batch: int, track: _Track
) -> Outputs | None:
    """Run a candidate; a failure becomes the track's fault."""
    try:
        outputs = run(runner, feeds, state)
        track.fault = next(_faults(outputs, expected, batch), None)
    except DlcError as error:
        track.fault = str(error)
    return None if track.fault else outputs


def _faults(outputs: Outputs, expected: Outputs, batch: int) -> Iterator[str]:
    """Infinities are a fault only where the reference has another value: masked scores may be -inf on purpose."""
    for name, stated in expected.items():
        got = outputs.get(name)
        if got is None:
            yield f"output {name!r} is missing"
        elif got.shape != stated.shape:
            yield f"output {name!r} has shape {list(got.shape)} on batch {batch}, the reference {list(stated.shape)}"
        elif got.dtype.kind == "f" and (bad := ~np.isfinite(got) & (got != stated)).any():
            kind = "NaN" if np.isnan(got).any() else "infinity"
            yield f"output {name!r} holds {kind}: {int(bad.sum())} of {got.size} values on batch {batch}"


def first_output(_feeds: Feeds, outputs: Outputs) -> Array:
    """Predict by the first output, where a recipe says nothing else."""
    return next(iter(outputs.values()))


def predicted(predict: Prediction, feeds: Feeds, outputs: Outputs, batch: int) -> Array:
    """Apply a recipe's prediction to a batch; RecipeError if it fails, or gives no rows."""
    try:
        rows = np.asarray(predict(feeds, outputs))
    except Exception as error:
        raise RecipeError(
            f"the recipe's prediction fails on batch {batch}: {type(error).__name__}: {error}; it gets that batch's "
            f"feeds ({', '.join(feeds)}) and outputs ({', '.join(outputs)})"
        ) from error
    if rows.ndim == 0:
        raise RecipeError(f"the recipe's prediction gives one number for batch {batch}; it must give a row per example")
    return rows


def _leading(feeds: Feeds) -> int:
    """Rows of axis 0 of the first input that has one."""
    return next((array.shape[0] for array in feeds.values() if array.ndim), 1)


def _result(
    track: _Track, metric: Metric | None, targets: Array | None, dataset: str, seed: int, *, is_reference: bool
) -> Evaluation:
    examples = track.meter.examples
    if track.fault is not None:
        return Evaluation(examples, fault=track.fault)
    agreement = None if is_reference else track.meter.result(np.random.default_rng(seed))
    if metric is None or targets is None:
        return Evaluation(examples, agreement=agreement)
    rows = metric_rows(metric, np.concatenate(track.predictions), targets, dataset)
    return Evaluation(len(rows), rows, agreement)


def metric_rows(metric: Metric, predictions: Array, targets: Array, dataset: str) -> Floats:
    """Apply a metric's ``rows``; DataError or RecipeError if predictions, targets and metric do not fit together."""
    if len(predictions) != len(targets):
        raise DataError(
            f"data set {dataset!r} has {len(targets)} targets for {len(predictions)} predictions; the recipe's "
            f"prediction must give one row per target"
        )
    try:
        rows = np.asarray(metric.rows(predictions, targets), dtype=np.float64)
    except Exception as error:
        raise RecipeError(
            f"metric {metric.name!r} cannot use predictions of shape {list(predictions.shape)} with targets of shape "
            f"{list(targets.shape)}: {type(error).__name__}: {error}; give the recipe a prediction or a metric that "
            f"fits"
        ) from error
    if rows.ndim != 2 or len(rows) != len(targets):
        raise RecipeError(
            f"metric {metric.name!r} must give rows [n, k] for {len(targets)} examples, not {list(rows.shape)}"
        )
    if (nan := np.isnan(rows).any(axis=1)).any():
        raise RecipeError(
            f"metric {metric.name!r} gives NaN for example {int(nan.argmax())}, {int(nan.sum())} of {len(rows)}; "
            f"it must give each example a number: leave out examples that have none"
        )
    return rows


def own_metric(
    function: Callable[[Array, Array], Array], *, unit: str = "", classes: bool = False, higher_is_better: bool = True
) -> Metric:  # fmt: skip
    """Make a metric of a user's function, which is named after it and is the mean of what it gives.

    The function takes predictions [n, ...] and targets [n, ...] and returns one value per example, [n]. For a metric
    that is no mean write a ``Metric``.
    """
    name = getattr(function, "__name__", type(function).__name__)

    def rows(predictions: Array, targets: Array) -> Floats:
        values = np.asarray(function(predictions, targets), dtype=np.float64)
        if values.shape not in {(len(targets),), (len(targets), 1)}:
            raise ValueError(
                f"it returned shape {list(values.shape)}, and must give one value per example, [{len(targets)}]; "
                f"a metric that is no mean of those is a dlc.harness.accuracy.Metric"
            )
        return values.reshape(-1, 1)

    return Metric(name, unit, rows, _mean, classes, higher_is_better)


def recall_at(k: int) -> Metric:
    """Recall of relevant items among the k that score highest; RecipeError where k is no number of items."""
    if k < 1:
        raise RecipeError(f"recall@{k} looks at no item: write 1 or more")
    return Metric(f"recall@{k}", "%", recalled(k), _percent)


def _hits(predictions: Array, targets: Array) -> Floats:
    right = class_numbers(targets, predictions.shape[1])
    hits: Floats = (predictions.argmax(axis=1) == right).astype(np.float64).reshape(-1, 1)
    return hits


def _percent(rows: Floats) -> float:
    return 100.0 * float(rows.mean())


def _distances(predictions: Array, targets: Array) -> Floats:
    apart = np.abs(predictions.astype(np.float64) - targets)
    distances: Floats = apart.reshape(len(apart), -1).mean(axis=1, keepdims=True)
    return distances


def _squares(predictions: Array, targets: Array) -> Floats:
    apart = predictions.astype(np.float64) - targets
    squares: Floats = (apart**2).reshape(len(apart), -1).mean(axis=1, keepdims=True)
    return squares


def _root_mean(rows: Floats) -> float:
    return float(np.sqrt(rows.mean()))


def _mean(rows: Floats) -> float:
    return float(rows.mean())


def _pairs(predictions: Array, targets: Array) -> Floats:
    pairs: Floats = np.stack([predictions.reshape(-1), targets.reshape(-1)], axis=1).astype(np.float64)
    return pairs


def _spearman(rows: Floats) -> float:
    """Pearson's correlation of mid-ranks, in hundredths; a constant column ranks nothing: its correlation is 0."""
    from scipy.stats import rankdata

    ranks = rankdata(rows, axis=0)  # [n, 2]
    centred = ranks - ranks.mean(axis=0)
    spread = float(np.sqrt((centred**2).sum(axis=0).prod()))
    return 100.0 * float(centred.prod(axis=1).sum()) / spread if spread > 0 else 0.0


def _nats(predictions: Array, targets: Array) -> Floats:
    """Negative log-likelihood of a sequence and how many of its tokens were predicted: all but the first, [n, 2]."""
    if predictions.shape != (len(targets), targets.shape[1] - 1):
        raise ValueError("of a sequence, every token but the first is predicted")
    nats = predictions.sum(axis=1, dtype=np.float64)
    rows: Floats = np.stack([nats, np.full(len(nats), predictions.shape[1], np.float64)], axis=1)
    return rows


def _perplexity(rows: Floats) -> float:
    """exp(mean negative log-likelihood of a token)."""
    nats, tokens = rows.sum(axis=0)
    return float(np.exp(nats / tokens))


METRICS = {
    "top1": Metric("top1", "%", _hits, _percent, classes=True),
    "top5": Metric("top5", "%", top_hits(5), _percent, classes=True),
    "f1": Metric("f1", "%", chosen, macro_f1, classes=True),
    "spearman": Metric("spearman", "/100", _pairs, _spearman),
    "perplexity": Metric("perplexity", "", _nats, _perplexity, higher_is_better=False),
    "auc": Metric("auc", "%", _pairs, area_under_curve),
    "eer": Metric("eer", "%", verification_rows, equal_error_rate, higher_is_better=False),
    "mae": Metric("mae", "", _distances, _mean, higher_is_better=False),
    "rmse": Metric("rmse", "", _squares, _root_mean, higher_is_better=False),
    **{f"recall@{k}": recall_at(k) for k in (1, 5, 10)},
    "map": Metric("map", "%", matched_boxes, mean_average_precision),
    "miou": Metric("miou", "%", overlaps, mean_iou),
    "token-agreement": Metric("token-agreement", "%", agreeing_tokens, share_of_counts),
    "si-snr": Metric("si-snr", "dB", si_snr, _mean),
    "psnr": Metric("psnr", "dB", psnr, _mean),
    "ssim": Metric("ssim", "", ssim, _mean),
}


def as_metric(given: Unchecked) -> Metric:
    """Return the metric that a recipe means: a name in ``METRICS``, a ``Metric``, or a function (``own_metric``)."""
    if isinstance(given, Metric):
        return given
    if isinstance(given, str):
        if given not in METRICS:
            raise RecipeError(f"unknown metric {given!r}{suggest(given, METRICS)}")
        return METRICS[given]
    if not callable(given):
        raise RecipeError(f"a metric is a name, a function or a Metric, not {type(given).__name__}")
    return own_metric(given)
