"""Segmentation: mean intersection over union of classes, from counts of pixels per image."""

from __future__ import annotations

import numpy as np

from dlc.types import Array, Floats

IGNORED = 255
"""A target that is no class, as in Pascal VOC and Cityscapes; negative targets are none either."""


def overlaps(predictions: Array, targets: Array) -> Floats:
    """Count each class's pixels in both, and in either: [n, 2, C] laid out as [n, 2C].

    Predictions: scores [n, C, ...], or classes [n, ...] as the targets are. All predictions are held until the data
    has gone by: a recipe's prediction best chooses the classes, and returns them as bytes.
    """
    if predictions.ndim == targets.ndim + 1:
        classes, count = predictions.argmax(axis=1), predictions.shape[1]
    else:
        classes, count = predictions, 0
    if classes.shape != targets.shape:
        raise ValueError("each target pixel needs one prediction")
    valid = (targets >= 0) & (targets != IGNORED)
    highest = max(int(classes.max(initial=0)), int(targets.max(initial=0, where=valid)))
    count = max(count, highest + 1)
    rows = [_image(c[v], t[v], count) for c, t, v in zip(classes, targets, valid, strict=True)]
    return np.stack(rows).astype(np.float64)


def mean_iou(rows: Floats) -> float:
    """Mean over classes that occur of intersection by union of all images, in percent.

    scikit-learn's ``jaccard_score(average="macro")`` over all pixels. Rows [n, 2C].
    """
    both, either = rows.sum(axis=0).reshape(2, -1)
    occurs = either > 0
    return 100.0 * float((both[occurs] / either[occurs]).mean()) if occurs.any() else float("nan")


def _image(classes: Array, targets: Array, count: int) -> Array:
    both = np.bincount(targets[classes == targets], minlength=count)
    either = np.bincount(classes, minlength=count) + np.bincount(targets, minlength=count) - both
    return np.concatenate([both, either])
