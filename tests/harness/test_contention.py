"""What others had of the CPUs that were needed: on numbers by hand, and on this system's own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dlc.harness import contention
from dlc.harness.contention import Moment, busy_seconds, crowded, usable

STAT = """cpu  300 30 60 5000 70 6 6 3 9 0
cpu0 100 10 20 2500 40 3 2 1 4 0
cpu1 200 20 40 2500 30 3 4 2 5 0
intr 12345
"""


@pytest.mark.parametrize(
    ("others", "threads", "cpus", "share"),
    [
        (0.0, 2, 2, 0.0),
        (0.05, 2, 2, 0.05),
        (1.0, 2, 2, 1.0),  # a busy loop beside two threads on two CPUs: one of them always shares
        (1.0, 2, 4, 0.0),  # ... on four CPUs it has one of its own
        (2.5, 2, 4, 0.5),
        (9.0, 2, 4, 1.0),
        (0.3, 4, 2, 0.3),  # more threads than CPUs leave none free
        (-0.1, 2, 2, 0.0),  # ticks are coarse: a process may seem to have had more than there was
    ],
)
def test_what_others_had_beyond_the_free_cpus(others: float, threads: int, cpus: int, share: float) -> None:
    """In two seconds in which this process had 1.5 CPUs."""
    start, end = Moment(10.0, 5.0, 100.0), Moment(12.0, 8.0, 103.0 + 2 * others)
    assert crowded(start, end, threads=threads, cpus=cpus) == pytest.approx(share, abs=1e-9)


@pytest.mark.parametrize(
    ("start", "end"), [((0.0, 0.0, None), (1.0, 1.0, 1.0)), ((0.0, 0.0, 1.0), (1.0, 1.0, None)), ((1.0, 0.0, 1.0),) * 2]
)
def test_what_is_not_known_is_not_said(start: tuple[float, ...], end: tuple[float, ...]) -> None:
    assert crowded(Moment(*start), Moment(*end), threads=2, cpus=2) is None


def test_only_the_cpus_that_may_be_used_count(tmp_path: Path) -> None:
    """User, nice, system, irq, softirq and steal; guests are in user already."""
    stat = tmp_path / "stat"
    stat.write_text(STAT)
    tick = os.sysconf("SC_CLK_TCK")
    assert busy_seconds([0], stat) == (100 + 10 + 20 + 3 + 2 + 1) / tick
    assert busy_seconds([0, 1], stat) == (136 + 269) / tick


@pytest.mark.parametrize("text", ["", "cpu 1 2 3\n", "cpu0 1 2 3\n", "cpu0 a b c d e f g h\n"])
def test_a_system_that_says_something_else_says_nothing(text: str, tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text(text)
    assert busy_seconds([0], stat) is None


def test_without_the_file_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "STAT", tmp_path / "none")
    assert Moment.now().busy is None


@pytest.mark.skipif(not contention.STAT.is_file(), reason="this system has no /proc/stat")
def test_one_s_own_work_is_not_that_of_others() -> None:
    """A loop of this process is counted on both sides, up to a tick of each CPU at either end."""
    start = Moment.now()
    while time.process_time() - start.own < 0.2:
        pass
    end = Moment.now()
    assert start.busy is not None
    assert end.busy is not None
    assert end.busy - start.busy >= 0.2 - 2 * len(usable()) / os.sysconf("SC_CLK_TCK")
