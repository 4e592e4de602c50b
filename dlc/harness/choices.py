"""Choices among classes, items and tokens: rows per example, and the metrics that they add up to.

A bootstrap asks for each metric thousands of times, on rows that were checked once; so the sums are written out here,
as scikit-learn defines them, and the tests hold them against it. Macro F1 of 1,000 examples takes 0.1 ms so, and 7 ms
in scikit-learn, which is no base dependency besides.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dlc.types import Array, Floats

UNCOUNTED = -100
"""A target token that is not to be predicted: torch's ``ignore_index``. Every negative target is left out."""


def class_numbers(targets: Array, classes: int) -> Array:
    """Return targets that are numbers of classes; ValueError names the first that is none."""
    whole = targets.dtype.kind in "iub" or (targets.dtype.kind == "f" and bool((targets == np.floor(targets)).all()))
    wrong = (targets < 0) | (targets >= classes) if whole else np.ones(targets.shape, bool)
    if wrong.any():
        first = targets[wrong].flat[0]
        raise ValueError(f"targets must be numbers of classes, 0 to {classes - 1}; found {first.item()!r}")
    return targets


def top_hits(k: int) -> Callable[[Array, Array], Floats]:
    """Whether the target is one of the k classes that score highest: ``top_k_accuracy_score``; scores [n, C], [n].

    Of equal scores the later class comes first, as there. With k classes or fewer every answer would be right.
    """

    def rows(scores: Array, targets: Array) -> Floats:
        if scores.ndim != 2 or scores.shape[1] <= k:
            raise ValueError(f"the best {k} of scores {list(scores.shape)} say nothing: more than {k} classes are due")
        best = np.argsort(scores, axis=1, kind="stable")[:, -k:]
        right = class_numbers(targets, scores.shape[1])
        hits: Floats = (best == right.reshape(-1, 1)).any(axis=1, keepdims=True).astype(np.float64)
        return hits

    return rows


def chosen(predictions: Array, targets: Array) -> Floats:
    """Lay out the class that was chosen beside the right one, [n, 2]; predictions: scores [n, C], or classes [n]."""
    if predictions.ndim == 2:
        targets, predictions = class_numbers(targets, predictions.shape[1]), predictions.argmax(axis=1)
    pairs: Floats = np.stack([predictions, targets.reshape(-1)], axis=1).astype(np.float64)
    return pairs


def macro_f1(rows: Floats) -> float:
    """Mean over classes of 2 TP / (2 TP + FP + FN), in percent: ``f1_score(average="macro", zero_division=0)``.

    Rows [chosen, right]. The classes are those that occur in either column.
    """
    _, at = np.unique(rows, return_inverse=True)
    got, right = at.reshape(rows.shape).T
    size = int(at.max()) + 1
    hits = np.bincount(got[got == right], minlength=size)
    return 100.0 * float((2 * hits / (np.bincount(got, minlength=size) + np.bincount(right, minlength=size))).mean())


def recalled(k: int) -> Callable[[Array, Array], Floats]:
    """Share of a query's relevant items that are among the k with the highest scores; scores [n, items].

    Targets: the one relevant item's index [n], or which items are relevant [n, items]. As torchmetrics'
    ``RetrievalRecall(top_k=k)`` for each query, which leaves out scores of 0 and less; dlc ranks those too. A query
    without a relevant item is an error, not a 0.
    """

    def rows(scores: Array, targets: Array) -> Floats:
        relevant = _relevant(scores, targets)
        if (none := ~relevant.any(axis=1)).any():
            raise ValueError(f"query {int(none.argmax())} has no relevant item; leave it out")
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        found = np.take_along_axis(relevant, best, axis=1).sum(axis=1) / relevant.sum(axis=1)
        shares: Floats = found.reshape(-1, 1)
        return shares

    return rows


def _relevant(scores: Array, targets: Array) -> Array:
    if targets.ndim == 2:
        if targets.shape != scores.shape:
            raise ValueError("relevance needs one column an item")
        return targets > 0
    relevant = np.zeros(scores.shape, dtype=bool)
    relevant[np.arange(len(scores)), targets] = True
    return relevant


def agreeing_tokens(predictions: Array, targets: Array) -> Floats:
    """Count the tokens that are as they should be, and those that count, [n, 2].

    Predictions: tokens [n, s], or scores [n, s, vocabulary]; targets: tokens [n, s], negative where none is due. The
    targets may be labels, or the tokens that a reference chose.
    """
    tokens = predictions.argmax(axis=2) if predictions.ndim == 3 else predictions
    if tokens.shape != targets.shape:
        raise ValueError("each target token needs one prediction")
    due = targets >= 0
    counts: Floats = np.stack([((tokens == targets) & due).sum(axis=1), due.sum(axis=1)], axis=1).astype(np.float64)
    return counts


def share_of_counts(rows: Floats) -> float:
    """Sum of the first column by that of the second, in percent; NaN where nothing counts."""
    hits, counted = rows.sum(axis=0)
    return 100.0 * float(hits / counted) if counted else float("nan")
