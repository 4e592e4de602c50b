"""From a histogram to a range by least information lost; the other methods are tested with calibration."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dlc.calibration import CHOICES, METHODS, Calibration, byte_size
from dlc.clipping import LEVELS, SHRINKS, Range, clipped, entropy, percentile
from dlc.errors import RecipeError
from dlc.histogram import BINS, Histogram
from dlc.types import Array


def histogram(values: Array) -> Histogram:
    seen = Histogram()
    seen.add(values.astype(np.float32))
    return seen


def divergence(seen: Histogram, chosen: Range) -> float:
    """KL(P || Q) value by value: the slow, obvious one."""
    counts: dict[int, float] = dict(enumerate(map(float, seen.counts)))
    zero = BINS // 2
    counts[zero] = min(counts[zero], counts[zero + 1])
    inside = [i for i in counts if seen.edges[i + 1] > chosen.low and seen.edges[i] < chosen.high]
    p = {i: counts[i] for i in inside}
    p[inside[0]] += sum(n for i, n in counts.items() if i < inside[0])
    p[inside[-1]] += sum(n for i, n in counts.items() if i > inside[-1])
    members: dict[int, list[int]] = {}
    for place, i in enumerate(inside):
        members.setdefault(place * LEVELS // len(inside), []).append(i)
    q: dict[int, float] = {}
    for level in members.values():
        held = [i for i in level if p[i]]
        q.update({i: sum(counts[j] for j in level) / len(held) for i in held})
    if not all(q.values()):
        return math.inf
    sum_p, sum_q = sum(p.values()), sum(q.values())
    return sum(p[i] / sum_p * math.log(p[i] / sum_p / (q[i] / sum_q)) for i in q)


@pytest.mark.parametrize("one_sided", [False, True], ids=["signed", "after ReLU"])
def test_entropy_takes_the_candidate_that_loses_least(*, one_sided: bool) -> None:
    values = np.random.default_rng(2).laplace(0.1, 1, 200_000)
    seen = histogram(np.maximum(values, 0.0) if one_sided else values)
    limit = max(-seen.low, seen.high)
    chosen = entropy(seen)
    assert 0.25 * limit < chosen.high < limit
    losses = [
        divergence(seen, Range(max(seen.low, -limit * k / SHRINKS), min(seen.high, limit * k / SHRINKS)))
        for k in range(SHRINKS, SHRINKS // 2, -6)
    ]
    assert divergence(seen, chosen) <= min(losses) * (1 + 1e-9)  # sums in another order


def test_entropy_keeps_a_box_and_does_not_mind_zeros() -> None:
    rng = np.random.default_rng(0)
    box = rng.uniform(0, 6, 1_000_000)
    assert entropy(histogram(box)).high > 5.8
    assert entropy(histogram(np.append(box, np.zeros(3_000_000)))) == entropy(histogram(box))


def test_entropy_of_zeros_and_of_a_constant_is_all_of_it() -> None:
    assert entropy(histogram(np.zeros(5))) == Range(0.0, 0.0)
    assert entropy(histogram(np.full(5, -3.0))) == Range(-3.0, 0.0)


def test_the_hundredth_percentile_is_everything() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    seen = histogram(values)
    assert percentile(seen, 100.0) == Range(seen.low, seen.high)


@pytest.mark.parametrize("method", METHODS)
def test_ranges_are_plain_numbers_within_what_was_seen(method: str) -> None:
    seen = histogram(np.random.default_rng(0).normal(size=1000) - 2)
    chosen = clipped(seen, method, Calibration())  # type: ignore[arg-type]
    assert type(chosen.low) is type(chosen.high) is float
    assert seen.low <= chosen.low < chosen.high <= max(seen.high, 0.0)


@pytest.mark.parametrize(
    ("text", "count"),
    [("1000", 1000), ("2GiB", 2 << 30), ("512 MB", 512_000_000), ("1.5kib", 1536), ("3 gb", 3_000_000_000)],
)
def test_an_amount_of_memory(text: str, count: int) -> None:
    assert byte_size(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "2 XiB", "1e3", "nan", "-3MB", "2 GiB of it"])
def test_no_amount_of_memory(text: str) -> None:
    with pytest.raises(RecipeError, match="no amount of memory"):
        byte_size(text)


def test_best_tries_what_does_not_depend_on_order() -> None:
    assert set(CHOICES) == {*METHODS, "best"}
    assert Calibration(method="best").methods == ("mse", "minmax", "percentile", "entropy")
    assert Calibration(method="moving-average").methods == ("moving-average",)
