"""Random graphs through the default pipeline: the numbers stay, the interface stays, and every rewrite had its chance.

The first hundred run by default. All two thousand take some minutes on one core:

    pytest -m slow tests/test_random_graphs.py
"""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
import pytest

from dlc.errors import DlcError, ModelError
from dlc.types import Feeds
from tests.default_pipeline import Differs, default_rewrites, evaluate, through
from tests.random_graphs.draw import drawn

HUNDREDS = 20
UNDRAWN: frozenset[str] = frozenset()
"""Rewrites of the default pipeline that no family of random graphs is written for yet."""


def runs(model: ir.Model, feeds: Feeds) -> bool:
    """Whether ONNX Runtime can load and run it: it has no kernel for some operators in FLOAT16 and DOUBLE."""
    try:
        evaluate(model, [feeds])
    except ModelError:
        return False
    return True


@pytest.mark.parametrize(
    "hundred", [pytest.param(i, marks=pytest.mark.slow if i else ()) for i in range(HUNDREDS)]
)  # fmt: skip
def test_a_hundred_graphs_compute_what_they_did(hundred: int) -> None:
    applied, attempts, faults, passes = Counter[str](), 0, list[str](), default_rewrites()
    for seed in range(100 * hundred, 100 * hundred + 100):
        graph = drawn(seed, runs)
        attempts += graph.attempts
        try:
            applied += through(graph.model, graph.feeds, passes)
        except (Differs, DlcError) as fault:
            faults.append(f"seed {seed}: {fault}")
    assert not faults, "\n".join(faults)
    assert attempts <= 130  # the graphs are what they are meant to be, not what happens to run
    found = {each.name for each in passes if applied[each.name]}
    assert found >= {each.name for each in passes} - UNDRAWN, applied
    print(dict(applied))  # noqa: T201 - with -s: how often each rewrite was applied
