from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from dlc.passes import schedule as scheduling
from dlc.passes.schedule import Task, bound, parts, peak, schedule


def drawn(rng: random.Random, nodes: int) -> tuple[list[Task], list[int]]:
    """Draw a graph whose nodes may write over an input, or need scratch."""
    tasks: list[Task] = []
    sizes: list[int] = []
    for i in range(nodes):
        reads = rng.sample(range(i), min(i, rng.randint(0, 3)))
        sizes.append(rng.randint(1, 9))
        over: tuple[tuple[int, int], ...] = ()
        if reads and rng.random() < 0.3:
            sizes[i], over = sizes[reads[0]], ((i, reads[0]),)
        tasks.append(Task(frozenset(reads), tuple(reads), (i,), over, rng.choice([0, 0, 4])))
    return tasks, sizes


def allowed(tasks: Sequence[Task], order: Sequence[int]) -> bool:
    return all(tasks[t].after <= set(order[:i]) for i, t in enumerate(order))


def best(tasks: Sequence[Task], sizes: Sequence[int]) -> int:
    """Try every order."""
    orders = (o for o in itertools.permutations(range(len(tasks))) if allowed(tasks, o))
    return min(peak(tasks, sizes, o) for o in orders)


@pytest.mark.parametrize("seed", range(60))
def test_equals_every_order_tried(seed: int) -> None:
    rng = random.Random(seed)
    tasks, sizes = drawn(rng, rng.randint(1, 6))
    found = schedule(tasks, sizes)
    assert found.peak == found.bound == best(tasks, sizes)
    assert found.optimal
    assert found.peak == peak(tasks, sizes, found.order)
    assert sorted(found.order) == list(range(len(tasks)))
    assert allowed(tasks, found.order)


@pytest.mark.parametrize("seed", range(30))
def test_a_beam_is_never_above_the_given_order_nor_below_the_bound(seed: int) -> None:
    tasks, sizes = drawn(random.Random(seed), 25)
    found, exact = schedule(tasks, sizes, states=0), schedule(tasks, sizes)
    assert bound(tasks, sizes) <= found.bound <= exact.peak <= found.peak <= peak(tasks, sizes, range(25))
    assert allowed(tasks, found.order)
    assert not found.optimal or found.peak == exact.peak


def test_wide_branches_run_one_after_another() -> None:
    """Each branch makes 100 bytes and reduces them to 1: interleaved they hold 300, one by one 102."""
    makes = [Task(writes=(i,)) for i in range(3)]
    reduces = [Task(frozenset({i}), (i,), (3 + i,)) for i in range(3)]
    joined = Task(frozenset({3, 4, 5}), (3, 4, 5), (6,))
    sizes = [100] * 3 + [1] * 3 + [1]
    given = [*makes, *reduces, joined]
    assert peak(given, sizes, range(7)) == 301
    found = schedule(given, sizes)
    assert (found.peak, found.optimal) == (103, True)


def test_writing_over_an_input_takes_nothing_where_it_is_read_last() -> None:
    tasks = [Task(writes=(0,)), Task(frozenset({0}), (0,), (1,), ((1, 0),)), Task(frozenset({0}), (0,), (2,))]
    assert peak(tasks, [8, 8, 8], (0, 1, 2)) == 16
    assert peak(tasks, [8, 8, 8], (0, 2, 1)) == 16
    assert peak(tasks[:2], [8, 8], (0, 1)) == 8


def test_scratch_counts_while_a_task_runs() -> None:
    tasks = [Task(writes=(0,)), Task(frozenset({0}), (0,), (1,), scratch=50)]
    assert peak(tasks, [10, 5], (0, 1)) == 65 == bound(tasks, [10, 5])


def test_the_bound_counts_what_waits() -> None:
    """Buffer 0 is read at the end, so it is alive while the chain between runs, in every order."""
    chain = [Task(writes=(0,))] + [Task(frozenset({i}), (i,) if i else (), (i + 1,)) for i in range(3)]
    last = Task(frozenset({0, 3}), (0, 3), (4,))
    assert bound([*chain, last], [100, 10, 10, 10, 1]) == 120


def test_a_graph_splits_where_all_orders_meet() -> None:
    diamond = [Task(), Task(frozenset({0})), Task(frozenset({0})), Task(frozenset({1, 2})), Task(frozenset({3}))]
    assert list(parts(diamond)) == [[0], [1, 2, 3], [4]]


def test_nothing_to_order() -> None:
    assert schedule([], []).order == ()


def test_an_optimal_order_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "parts", None)  # not reached
    chain = [Task(writes=(0,)), Task(frozenset({0}), (0,), (1,)), Task(frozenset({1}), (1,), (2,))]
    assert schedule(chain, [1, 1, 1]).order == (0, 1, 2)
