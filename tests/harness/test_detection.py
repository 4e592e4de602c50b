"""Error rates against their definitions, counted one by one."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.harness.accuracy import METRICS
from dlc.harness.detection import UNLABELLED, area_under_curve, equal_error_rate, verification_rows
from dlc.types import Array


def on_circle(degrees: list[float]) -> Array:
    angle = np.deg2rad(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def test_speakers_apart_have_no_error() -> None:
    rows = verification_rows(on_circle([0, 1, 90, 91]), np.array([0, 0, 1, 1]))
    assert equal_error_rate(rows) == 0


def test_speakers_mixed_are_all_error() -> None:
    """Pairs of one speaker are opposite, pairs of two at right angles: no threshold keeps the first alone."""
    vectors = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert equal_error_rate(verification_rows(vectors, np.array([0, 0, 1, 1]))) == 100


def test_length_says_nothing() -> None:
    vectors, speakers = on_circle([0, 30, 50, 90, 20]), np.array([0, 0, 1, 1, 1])
    scaled = vectors * np.array([[1.0], [2], [3], [4], [0.5]])
    assert equal_error_rate(verification_rows(scaled, speakers)) == equal_error_rate(
        verification_rows(vectors, speakers)
    )


def test_an_utterance_drawn_twice_is_no_trial() -> None:
    rows = verification_rows(on_circle([0, 30, 50, 90]), np.array([0, 0, 1, 1]))
    twice = rows[[0, 0, 1, 2, 3]]
    same = [(0, 2), (1, 2), (3, 4)]
    other = [(i, j) for i in range(5) for j in range(i) if {i, j} != {0, 1} and twice[i, 1] != twice[j, 1]]
    cosine = twice[:, 2:] @ twice[:, 2:].T
    threshold = [
        (
            abs(np.mean([cosine[p] < t for p in same]) - np.mean([cosine[p] >= t for p in other])),
            np.mean([cosine[p] < t for p in same]) + np.mean([cosine[p] >= t for p in other]),
        )
        for t in sorted({*cosine[np.triu_indices(5, 1)].tolist(), np.inf})
    ]
    assert equal_error_rate(twice) == pytest.approx(50 * min(threshold)[1])


def test_without_pairs_of_both_kinds_there_is_no_rate() -> None:
    assert np.isnan(equal_error_rate(verification_rows(on_circle([0, 1]), np.array([0, 0]))))
    assert np.isnan(equal_error_rate(verification_rows(on_circle([0, 1]), np.array([0, 1]))))


def test_area_counts_pairs_in_order_and_ties_half() -> None:
    score, label = [0.9, 0.5, 0.5, 0.1, 7.0], [1, 1, 0, 0, UNLABELLED]
    assert area_under_curve(np.column_stack([score, label])) == pytest.approx(100 * 3.5 / 4)
    assert np.isnan(area_under_curve(np.array([[0.9, 1], [0.5, UNLABELLED]])))


def test_mae() -> None:
    mae = METRICS["mae"]
    assert mae.statistic(mae.rows(np.array([[1, 2], [3, 5]]), np.array([[1, 3], [3, 3]]))) == 0.75


def test_errors_are_declared_as_such() -> None:
    assert {name for name, m in METRICS.items() if not m.higher_is_better} >= {"eer", "mae"}
