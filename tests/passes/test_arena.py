"""What ONNX Runtime's arena makes of runs; that it does so in fact, tests/runtimes/test_capped.py shows."""

from __future__ import annotations

import pytest

from dlc.allocations import Event
from dlc.passes.arena import UNIT, least_arena


def events(text: str) -> list[Event]:
    """Read ``a2 b1 -a``: a takes 2 units, b one, a is let go."""
    numbers: dict[str, int] = {}
    found = []
    for word in text.split():
        name = word.strip("-0123456789")
        size = 0 if word.startswith("-") else int(word[1:]) * UNIT
        found.append(Event(numbers.setdefault(name, len(numbers)), size))
    return found


@pytest.mark.parametrize(
    ("run", "units"),
    [
        ("a2 b1 -a c2 -b -c", 3),  # c takes what a left
        ("a1 b2 c1 -b d1 e1 -a -c -d -e", 4),  # the rest of what b left stays free
        (
            "a2 b1 -a c1 d2 -b -c -d",
            4,
        ),  # c takes the end of the arena, the smallest chunk with room: what a left is d's
        ("a8 b4 -a c4 d7 -b -c -d", 16),  # with 15, the end has 3, and c splits what a left, so that d has no room
        ("a1 b1 c1 -a -b d2 -c -d", 3),  # free neighbours are one
        ("a1 b1 c1 -c -b -a d3 -d", 3),
        ("a3 b1 c2 d1 -a -c e2 f3 -b -d -e -f", 7),  # e takes the smaller gap
    ],
)
def test_best_fit(run: str, units: int) -> None:
    assert least_arena(events(run), events(run)) == units * UNIT


def test_sizes_are_rounded_up() -> None:
    run = [Event(0, 1), Event(1, UNIT + 1), Event(0, 0), Event(1, 0)]
    assert least_arena(run, run) == 3 * UNIT


def test_what_a_kernel_keeps_is_in_the_way_of_later_runs() -> None:
    """k is in the first run alone, and not freed; y is an output of both, which the caller lets go after each."""
    first, later = events("a2 k1 -a y2"), events("a2 b2 -a -b y2")
    assert least_arena(later, later) == 4 * UNIT
    assert least_arena(first, later) == 5 * UNIT


def test_nothing_takes_one_unit() -> None:
    assert least_arena([], []) == UNIT
