"""Detection: how well a score tells two classes apart. Equal error rate of verification, area under the ROC curve."""

from __future__ import annotations

import numpy as np

from dlc.types import Array, Floats

UNLABELLED = -1
"""A target that is neither class: the example is run and not scored."""


def verification_rows(embeddings: Array, speakers: Array) -> Floats:
    """Lay out utterances as [n, 2 + d]: number, speaker, embedding of length 1. The number tells draws of one apart."""
    vectors = embeddings.astype(np.float64)  # [n, d]
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    numbers = np.arange(len(vectors), dtype=np.float64)
    rows: Floats = np.column_stack([numbers, speakers.astype(np.float64), vectors / np.where(lengths > 0, lengths, 1)])
    return rows


def equal_error_rate(rows: Floats) -> float:
    """Percent of false accepts where it equals that of false rejects, over all pairs of different utterances.

    A pair is accepted if its cosine is at least a threshold. Both rates are steps of the threshold; where they do not
    meet, the rate lies halfway between them at the threshold where they are closest. Without pairs of both kinds: NaN.
    """
    numbers, speakers, vectors = rows[:, 0], rows[:, 1], rows[:, 2:]
    i, j = np.triu_indices(len(rows), k=1)
    other = numbers[i] != numbers[j]  # a bootstrap draws an utterance twice; with itself it is no trial
    i, j = i[other], j[other]
    same = speakers[i] == speakers[j]
    cosine = (vectors @ vectors.T)[i, j]
    if not same.any() or same.all():
        return float("nan")
    targets, impostors = np.sort(cosine[same]), np.sort(cosine[~same])
    thresholds = np.append(np.unique(cosine), np.inf)
    rejected = np.searchsorted(targets, thresholds, side="left") / len(targets)
    accepted = 1 - np.searchsorted(impostors, thresholds, side="left") / len(impostors)
    best = int(np.abs(rejected - accepted).argmin())
    return 50.0 * float(rejected[best] + accepted[best])


def area_under_curve(rows: Floats) -> float:
    """Chance, in percent, that an example of class 1 scores above one of class 0, ties half; rows [score, class].

    The Mann-Whitney statistic. Examples of neither class are left out; without examples of both classes: NaN.
    """
    from scipy.stats import rankdata

    score, positive = rows[rows[:, 1] != UNLABELLED].T
    ones = int((positive == 1).sum())
    zeros = len(score) - ones
    if ones == 0 or zeros == 0:
        return float("nan")
    above = float(rankdata(score)[positive == 1].sum()) - ones * (ones + 1) / 2
    return 100.0 * above / (ones * zeros)
