from __future__ import annotations

import itertools
import random

import pytest

from dlc.passes import pack as packing
from dlc.passes.offsets import Buffer, faults, lower_bound, place
from dlc.passes.pack import pack


def hard(seed: int) -> list[Buffer]:
    """Cut a rectangle of 640 bytes over 40 steps into buffers, which therefore fit it exactly."""
    rng = random.Random(seed)
    whole = [(0, 640, 0, 40)]
    while len(whole) < 40:
        low, high, first, last = whole.pop(rng.randrange(len(whole)))
        if rng.random() < 0.5 and high - low > 64:
            at = rng.randrange(low + 64, high, 64)
            whole += [(low, at, first, last), (at, high, first, last)]
        elif last - first > 1:
            at = rng.randrange(first + 1, last)
            whole += [(low, high, first, at), (low, high, at, last)]
        else:
            whole.append((low, high, first, last))
    return [Buffer(f"b{i}", high - low, first, last) for i, (low, high, first, last) in enumerate(whole)]


def above_the_bound() -> list[Buffer]:
    return next(some for seed in range(100) if place(some := hard(seed)).arena > lower_bound(some))


def test_the_search_reaches_what_greedy_leaves() -> None:
    pytest.importorskip("omnimalloc", reason="needs the extra plan")
    some = above_the_bound()
    found = pack(some, seconds=60)
    assert found.arena == lower_bound(some) == 640
    assert list(faults(some, found.offsets)) == []
    assert found.solver.startswith("omnimalloc")


def test_a_goal_that_greedy_meets_is_not_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_search", None)
    some = above_the_bound()
    assert pack(some, place(some).arena) == place(some)


def test_without_the_package_greedy_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "exact", lambda: False)
    some = above_the_bound()
    assert pack(some) == place(some)


def test_an_optimum_above_the_bound_is_proved() -> None:
    """No more than 6 units are alive at once, but no offsets in 6 units hold these: all are tried."""
    pytest.importorskip("omnimalloc", reason="needs the extra plan")
    spans = [(3, 4, 5), (2, 2, 3), (2, 2, 5), (1, 3, 6), (4, 5, 6), (3, 0, 1), (2, 0, 4)]
    some = [Buffer(f"b{i}", 64 * size, first, last) for i, (size, first, last) in enumerate(spans)]
    found = pack(some, seconds=60)
    assert list(faults(some, found.offsets)) == []
    assert found.arena == 7 * 64 > lower_bound(some)
    assert found.solver.endswith("proved optimal")
    in_six = itertools.product(*([(b.name, 64 * at) for at in range(7 - b.size // 64)] for b in some))
    assert all(any(faults(some, dict(at))) for at in in_six)


def test_time_that_runs_out_leaves_the_best_so_far() -> None:
    some = above_the_bound()
    assert pack(some, seconds=0).arena == place(some).arena


def test_a_large_problem_is_left_to_greedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MOST", 10)
    some = above_the_bound()
    assert pack(some) == place(some)
