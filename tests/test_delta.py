"""The least of many things that fails: alone, only together, without any."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.delta import smallest


@pytest.mark.parametrize("culprits", [{0}, {13}, {63}, {4, 5}, {0, 63}, {7, 30, 31}, set(range(64))])
def test_finds_exactly_what_fails_together(culprits: set[int]) -> None:
    assert smallest(range(64), lambda kept: culprits <= set(kept)) == sorted(culprits)


def test_one_of_two_ways_to_fail() -> None:
    found = smallest(range(32), lambda kept: 3 in kept or {9, 20} <= set(kept))
    assert found == [3]


def test_nothing_is_needed() -> None:
    assert smallest(range(5), lambda _: True) == []
    assert smallest([], lambda _: False) == []


def test_one_culprit_takes_few_tries_and_none_twice() -> None:
    tries: list[tuple[int, ...]] = []

    def fails(kept: Sequence[int]) -> bool:
        tries.append(tuple(kept))
        return 700 in kept

    assert smallest(range(1024), fails) == [700]
    assert len(tries) == len(set(tries))
    assert len(tries) <= 2 * 10 + 2


@settings(derandomize=True, deadline=None)
@given(st.lists(st.sets(st.integers(0, 23)), min_size=1, max_size=5))
def test_no_single_one_can_be_left_out(ways: list[set[int]]) -> None:
    def fails(kept: Sequence[int]) -> bool:
        return any(way <= set(kept) for way in ways)

    found = smallest(range(24), fails)
    assert fails(found)
    assert not any(fails([i for i in found if i != one]) for one in found)
