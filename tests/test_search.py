"""The search against brute force: units whose losses and savings are known, and an evaluation that adds them up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.errors import RecipeError
from dlc.manifest import Estimate
from dlc.search import Link, Measured, Mix, Mixing, Objective, Problem, Search, Unit, front

FP32_NS, FP32_BYTES = 1e7, 20_000_000


def problem(rng: np.random.Generator, count: int, *, by_size: bool = False) -> Problem:
    """A chain of units; losses spread over three decades, some units are slower in 8 bits."""
    losses, saved = 10 ** rng.uniform(-6, -3, count), rng.uniform(-1e5, 9e5, count)
    units = [
        Unit(f"u{i}", float(lost), float(ns), int(rng.integers(1000, 10**6)))
        for i, (lost, ns) in enumerate(zip(losses, saved, strict=True))
    ]
    links = [Link(f"u{i}", f"u{i + 1}", float(rng.uniform(0, 2e5))) for i in range(count - 1)]
    return Problem(units, links, by_size=by_size)


def exact(value: float) -> Estimate:
    return Estimate(value=value, low=value, high=value)


@dataclass
class World:
    """What is measured is what is predicted, times a factor for the loss that the search does not know."""

    problem: Problem
    factor: float = 1.0
    seconds: float = 1.0
    asked: list[Mix] = field(default_factory=list)

    def truth(self, mix: Mix) -> Measured:
        ns = FP32_NS - replace(self.problem, by_size=False).saved(mix)
        size = FP32_BYTES - sum(u.saved_bytes for u in self.problem.units if u.name in mix)
        return Measured(
            ms=ns / 1e6, ratio=exact(ns / FP32_NS), kept=exact(1 - self.factor * self.problem.loss(mix)), bytes=size,
            seconds=self.seconds,
        )  # fmt: skip

    def evaluate(self, mix: Mix) -> Measured:
        self.asked.append(mix)
        return self.truth(mix)


def mixes(problem: Problem) -> Iterator[Mix]:
    names = [u.name for u in problem.units]
    return (frozenset(c) for n in range(1, len(names) + 1) for c in itertools.combinations(names, n))


def optimum(world: World, objective: Objective) -> Measured | None:
    holding = [m for mix in mixes(world.problem) if objective.holds(m := world.truth(mix))]
    return min(holding, key=objective.badness, default=None)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 7), share=st.floats(0, 1.1))
def test_the_program_solves_what_brute_force_solves(seed: int, count: int, share: float) -> None:
    tried = problem(np.random.default_rng(seed), count)
    budget = share * sum(u.loss for u in tried.units)
    found = tried.most(budget)
    assert tried.loss(found) <= budget * (1 + 1e-6)  # HiGHS' feasibility tolerance
    best = max((tried.saved(m) for m in mixes(tried) if tried.loss(m) <= budget), default=0.0)
    assert tried.saved(found) >= max(best, 0.0) - 1e-6 * 9e5 * count  # the tie-breaker's weight and HiGHS' tolerance


@pytest.mark.parametrize("seed", range(6))
def test_the_fastest_that_keeps_enough_is_the_fastest_of_all_mixes(seed: int) -> None:
    world = World(problem(np.random.default_rng(seed), 8), factor=1.7)
    objective = Objective(keep=0.999)
    found = Search(world.problem, objective, world.evaluate).run()
    best = optimum(world, objective)
    assert best is not None
    assert found.best is not None
    got = found.measured[found.best]
    assert objective.holds(got)
    assert got.ratio.value <= best.ratio.value * 1.01  # a swap is tried for a hundredth or more
    assert len(found.measured) <= 40


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("what", ["ms", "bytes"])
def test_the_most_accurate_within_a_limit(seed: int, what: str) -> None:
    world = World(problem(np.random.default_rng(seed), 8, by_size=what == "bytes"))
    most = world.truth(world.problem.path()[-1])
    objective = (
        Objective(within_ms=(FP32_NS / 1e6 + most.ms) / 2)
        if what == "ms"
        else Objective(within_bytes=(FP32_BYTES + most.bytes) // 2)
    )
    found = Search(world.problem, objective, world.evaluate).run()
    best = optimum(world, objective)
    assert best is not None
    assert found.best is not None
    got = found.measured[found.best]
    assert objective.holds(got)
    assert 1 - got.kept.value <= (1 - best.kept.value) / 0.8  # neighbouring budgets of the path lie within 22 %


def test_a_share_is_kept_where_its_estimate_is() -> None:
    found = World(Problem([Unit("a", 1e-4, 5e5, 10)])).truth(frozenset("a"))
    for value, holds in ((0.9991, True), (0.9989, False)):
        unsure = Estimate(value=value, low=0.99, high=1.0)
        wide = Measured(ms=found.ms, ratio=found.ratio, kept=unsure, bytes=found.bytes, seconds=0.0)
        assert Objective(keep=0.999).holds(wide) == holds


def test_all_units_are_measured_and_win_where_they_keep_enough() -> None:
    world = World(Problem([Unit("a", 1e-5, 5e5, 10), Unit("b", 2e-5, 5e5, 10)]))
    found = Search(world.problem, Objective(), world.evaluate).run()
    assert found.best == frozenset(["a", "b"])
    assert world.asked == [{"a", "b"}]
    assert found.stopped == "no other mix is predicted to be better"


def test_a_unit_that_is_slower_in_8_bits_stays_in_fp32() -> None:
    world = World(Problem([Unit("a", 1e-5, 5e5, 10), Unit("b", 2e-5, -5e5, 10)]))
    assert Search(world.problem, Objective(), world.evaluate).run().best == frozenset(["a"])


def test_neighbours_that_save_only_together_are_found_together() -> None:
    units = [Unit("a", 1e-5, -1e5, 10), Unit("b", 1e-5, -1e5, 10), Unit("c", 1e-5, -1e5, 10)]
    chain = Problem(units, [Link("a", "b", 3e5)])
    assert chain.most(1.0) == {"a", "b"}


def test_nothing_holds_and_the_nearest_is_named() -> None:
    world = World(Problem([Unit("a", 0.1, 5e5, 10), Unit("b", 0.2, 5e5, 10)]))
    found = Search(world.problem, Objective(keep=0.999), world.evaluate).run()
    assert found.best is None
    assert found.nearest == frozenset(["a"])
    assert found.stopped == "no mix of those that save most for what they lose holds"
    found = Search(world.problem, Objective(within_ms=0.001), world.evaluate).run()
    assert (found.best, found.nearest) == (None, frozenset(["a", "b"]))


def test_a_mix_whose_outputs_are_of_no_use_never_holds() -> None:
    world = World(Problem([Unit("a", 3e-6, 5e5, 10), Unit("b", 1e-6, 5e5, 10)]))

    def evaluate(mix: Mix) -> Measured:
        found = world.evaluate(mix)
        return replace_measured(found, "NaN") if "a" in mix else found

    found = Search(world.problem, Objective(), evaluate).run()
    assert found.best == frozenset(["b"])


def replace_measured(found: Measured, refuted: str) -> Measured:
    return Measured(
        ms=found.ms, ratio=found.ratio, kept=found.kept, bytes=found.bytes, seconds=found.seconds, refuted=refuted
    )


@pytest.mark.parametrize(
    ("limit", "count", "reason"),
    [
        ({"evaluations": 3}, 3, "3 mixes were evaluated"),
        ({"seconds": 4.5}, 5, "the time of 4.5 s is spent"),
    ],
)
def test_the_budget_is_kept(limit: dict[str, float], count: int, reason: str) -> None:
    world = World(problem(np.random.default_rng(1), 20), factor=3.0)
    found = Search(world.problem, Objective(), world.evaluate, **limit).run()  # type: ignore[arg-type]
    assert len(world.asked) == len(found.measured) == count
    assert found.stopped == reason


def test_no_mix_is_evaluated_twice_and_the_order_is_the_same_each_time() -> None:
    worlds = [World(problem(np.random.default_rng(3), 20), factor=3.0) for _ in range(2)]
    found = [Search(w.problem, Objective(), w.evaluate).run() for w in worlds]
    assert worlds[0].asked == worlds[1].asked
    assert found[0] == found[1]
    assert len(set(worlds[0].asked)) == len(worlds[0].asked)


def test_fifty_units_take_no_more_than_the_default_budget() -> None:
    world = World(problem(np.random.default_rng(5), 50), factor=0.4)
    found = Search(world.problem, Objective(), world.evaluate).run()
    assert found.best is not None
    assert len(world.asked) <= 40


def test_the_front_holds_what_nothing_beats() -> None:
    def at(ratio: float, kept: float, size: int = 1) -> Measured:
        return Measured(ms=ratio, ratio=exact(ratio), kept=exact(kept), bytes=size, seconds=0.0)

    fast, good, beaten, fp32 = at(0.5, 0.99, 5), at(0.6, 0.999, 4), at(0.7, 0.998, 3), at(1.0, 1.0, 9)
    assert front([fp32, beaten, good, fast]) == [fast, good, fp32]
    assert front([fp32, beaten, good, fast], by_size=True) == [beaten, good, fp32]
    assert front([fp32, replace_measured(fast, "NaN")]) == [fp32]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Objective(keep=0.99, within_ms=3), "one objective, not keep and within_ms"),
        (lambda: Objective(keep=99.9), "write 0.999"),
        (lambda: Objective(within_ms=0), "no model"),
        (lambda: Objective(within_bytes=-1), "no model"),
        (lambda: Mixing(evaluations=0), "an evaluation and time"),
        (lambda: Mixing(seconds=0), "an evaluation and time"),
    ],
)
def test_what_cannot_be_searched_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        make()


def test_an_objective_says_what_it_is() -> None:
    assert str(Objective()) == "the fastest that keeps 99.9 % of FP32"
    assert str(Objective(within_ms=3.0)) == "the most accurate within 3 ms"
    assert str(Objective(within_bytes=8_000_000)) == "the most accurate within 8 MB"
