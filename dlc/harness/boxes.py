"""Object detection: mean average precision as COCO defines it, in rows that can be resampled image by image.

What a detection matches is settled within its image; only the ranking by score spans images. So a row holds an image's
detections, each with its score, its class and the thresholds at which it matched, and how many objects there were.

COCO's definition (Lin et al., arXiv:1405.0312; pycocotools' ``COCOeval``), areas "all": intersection over union from
0.50 to 0.95 in steps of 0.05; the best 100 detections of a class in an image; by falling score, each takes the free
object that it overlaps most; precision made monotonic and read at 101 recalls; mean over thresholds and classes
that have objects. There are no crowd regions.
"""

from __future__ import annotations

import numpy as np

from dlc.types import Array, Floats

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100
"""Detections of a class in an image that count."""
ABSENT = -1.0
"""Class of a row that pads; a score below 0 is one too."""


def matched_boxes(predictions: Array, targets: Array) -> Floats:
    """Match each image's detections: [n, d, 6] of x1, y1, x2, y2, score, class with [n, t, 5] of x1 … y2, class.

    Images have different numbers: pad with class -1. Returns [n, 1 + 3d + t]: d; of each detection the score, the class
    and its matches, one bit a threshold; of each object its class.
    """
    if predictions.ndim != 3 or predictions.shape[2] != 6 or targets.ndim != 3 or targets.shape[2] != 5:
        raise ValueError("detections are [n, d, 6], x1, y1, x2, y2, score, class; objects [n, t, 5] without the score")
    rows = [_image(p.astype(np.float64), t.astype(np.float64)) for p, t in zip(predictions, targets, strict=True)]
    return np.stack(rows)


def mean_average_precision(rows: Floats) -> float:
    """Mean average precision in percent, from what ``matched_boxes`` returns; NaN where there is no object."""
    end = 1 + 3 * int(rows[0, 0])
    score, label, bits = np.moveaxis(rows[:, 1:end].reshape(len(rows), -1, 3), 2, 0)
    truth = rows[:, end:]
    present = label != ABSENT
    score, label, bits = score[present], label[present], bits[present].astype(np.int64)
    classes, counts = np.unique(truth[truth != ABSENT], return_counts=True)
    found = [
        _average_precision(score[label == c], bits[label == c], int(n)) for c, n in zip(classes, counts, strict=True)
    ]
    return 100.0 * float(np.mean(found)) if found else float("nan")


def _image(detections: Floats, objects: Floats) -> Floats:
    real = (detections[:, 5] >= 0) & (detections[:, 4] >= 0)
    out = np.column_stack([detections[:, 4], np.full(len(detections), ABSENT), np.zeros(len(detections))])
    for label in np.unique(detections[real, 5]):
        at = np.flatnonzero(real & (detections[:, 5] == label))
        best = at[np.argsort(-detections[at, 4], kind="stable")[:MOST]]
        out[best, 1] = label
        out[best, 2] = _bits(_overlap(detections[best, :4], objects[objects[:, 4] == label, :4]))
    return np.concatenate([[len(out)], out.reshape(-1), np.where(objects[:, 4] >= 0, objects[:, 4], ABSENT)])


def _overlap(a: Floats, b: Floats) -> Floats:
    """Intersection over union of boxes [d, 4] and [t, 4], [d, t]."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(axis=2)
    either = _area(a)[:, None] + _area(b)[None, :] - both
    shares: Floats = both / np.where(either > 0, either, 1.0)
    return shares


def _area(boxes: Floats) -> Floats:
    areas: Floats = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)
    return areas


def _bits(overlap: Floats) -> Floats:
    """Let detections, best first, take objects at each threshold; return which thresholds each met, as bits."""
    met = np.zeros(len(overlap))
    if not overlap.shape[1]:
        return met
    for bit, threshold in enumerate(THRESHOLDS):
        free = np.ones(overlap.shape[1], dtype=bool)
        for row, shares in enumerate(overlap):
            open_to = np.where(free, shares, -1.0)
            best = len(open_to) - 1 - int(open_to[::-1].argmax())  # of equals COCOeval takes the last
            if open_to[best] >= min(threshold, 1 - 1e-10):
                free[best] = False
                met[row] += 2**bit
    return met


def _average_precision(score: Floats, bits: Array, objects: int) -> float:
    order = np.argsort(-score, kind="stable")
    hits = (bits[order, None] >> np.arange(len(THRESHOLDS)) & 1).T.cumsum(axis=1)  # [10, d]
    if not hits.size:
        return 0.0
    precision = hits / np.arange(1, hits.shape[1] + 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    padded = np.concatenate([precision, np.zeros((len(hits), 1))], axis=1)
    at = [np.searchsorted(each / objects, RECALLS, side="left") for each in hits]
    return float(np.mean([row[index] for row, index in zip(padded, at, strict=True)]))
