"""Random graphs through the default pipeline: the numbers stay, the interface stays, and every rewrite had its chance.

The first hundred run by default. All two thousand take some minutes on one core:

    pytest -m slow tests/test_random_graphs.py
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache

import onnx_ir as ir
import pytest

from dlc.costs import Costs
from dlc.errors import DlcError, ModelError
from dlc.interface import Interface
from dlc.passes.base import clone
from dlc.runtimes.session import SessionConfig
from dlc.stages.rewriting import rewrite
from dlc.target import detect
from dlc.tolerance import distance, reassociation
from dlc.types import Feeds
from tests.default_pipeline import Differs, Point, default_rewrites, evaluate, through
from tests.random_graphs.draw import drawn

HUNDREDS = 20
MEASURED = 4
"""Graphs that a default run takes through the whole choice of rewrites, place by place."""
ENOUGH = 5
"""Hundreds in which each rewrite is applied at least once: all are applied in one graph of a hundred, or more."""
UNDRAWN: frozenset[str] = frozenset()
"""Rewrites of the default pipeline that no family of random graphs is written for yet."""


def runs(model: ir.Model, feeds: Feeds) -> bool:
    """Whether ONNX Runtime can load and run it: it has no kernel for some operators in FLOAT16 and DOUBLE."""
    try:
        evaluate(model, [feeds])
    except ModelError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Hundred:
    """What became of a hundred graphs. ``attempts``: how many were drawn for them."""

    applied: Counter[str]
    attempts: int
    faults: tuple[str, ...]


@cache
def taken(hundred: int) -> Hundred:
    """Take a hundred graphs through the pipeline."""
    applied, attempts, faults, passes = Counter[str](), 0, list[str](), default_rewrites()
    for seed in range(100 * hundred, 100 * hundred + 100):
        graph = drawn(seed, runs)
        attempts += graph.attempts
        try:
            applied += through(graph.model, graph.feeds, passes)
        except (Differs, DlcError) as fault:
            faults.append(f"seed {seed}: {fault}")
    return Hundred(applied, attempts, tuple(faults))


@pytest.mark.parametrize(
    "hundred", [pytest.param(i, marks=pytest.mark.slow if i else ()) for i in range(HUNDREDS)]
)  # fmt: skip
def test_a_hundred_graphs_compute_what_they_did(hundred: int) -> None:
    found = taken(hundred)
    assert not found.faults, "\n".join(found.faults)
    assert found.attempts <= 130  # the graphs are what they are meant to be, not what happens to run
    print(dict(found.applied))  # noqa: T201 - with -s: how often each rewrite was applied


def test_every_rewrite_is_applied_in_the_first_hundreds() -> None:
    missing = {each.name for each in default_rewrites()} - UNDRAWN
    for hundred in range(ENOUGH):
        missing -= set(taken(hundred).applied)
        if not missing:
            return
    assert not missing


@pytest.mark.parametrize("seed", [pytest.param(i, marks=pytest.mark.slow if i >= MEASURED else ()) for i in range(60)])
def test_a_graph_keeps_its_numbers_where_places_are_measured(seed: int) -> None:
    graph = drawn(seed, runs)
    feeds = graph.feeds[0]
    before, bound, interface = evaluate(graph.model, [feeds]), reassociation(graph.model), Interface.of(graph.model)
    point = Point(clone(graph.model), feeds, *before)
    done = rewrite(graph.model, Costs(detect(), SessionConfig(), feeds), default_rewrites())
    assert done.bugs == ()
    assert Interface.of(done.model) == interface
    apart, where = distance(*evaluate(done.model, [feeds]), *before)
    assert apart <= max(bound, reassociation(done.model)) * point.enlarges(), where
