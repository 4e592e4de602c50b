"""Latency of models side by side, in interleaved rounds: a busy machine slows all of them alike."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlc.harness.statistics import percentile
from dlc.manifest import Estimate, Latency
from dlc.runtimes.base import Runner
from dlc.runtimes.ort import OrtRunner
from dlc.types import Array, Feeds, Nanoseconds

IntArray = npt.NDArray[np.int64]

ROUNDS = 100
LEAST_ROUNDS = 24
"""Rounds that are timed however long they take: with fewer, an interval of medians says little."""
SAMPLE: Nanoseconds = 200_000
"""A sample lasts at least this long, several calls if need be: reading the clock then costs under a thousandth."""
WARM_UP: Nanoseconds = 20_000_000
WARM_UP_LIMIT: Nanoseconds = 2_000_000_000
WARM_UP_CALLS = 3
"""Calls in a row none of which is faster than those before: then a model is warm."""
FASTER = 0.99
"""A call counts as faster below this share of the fastest so far: a record by less is noise."""
KEPT_SAMPLES = 200


@dataclass(frozen=True, slots=True)
class Samples:
    """One call's nanoseconds in each round: ``wall`` by the clock, ``busy`` on a CPU, of the calling thread.

    ``busy`` leaves out the time in which the system ran something else; it is what a model of one thread needs.
    ``warm_up``: calls before the first sample. ``settled``: the last of them got no faster.
    """

    wall: IntArray
    busy: IntArray
    warm_up: int
    settled: bool


def latency(
    runners: Mapping[str, Runner], feeds: Feeds, *, rounds: int = ROUNDS, min_seconds: float = 0.0,
    max_seconds: float = math.inf, rng: np.random.Generator,
) -> dict[str, IntArray]:  # fmt: skip
    """Time one call of each model, in nanoseconds, [rounds] each; all models in each round, in shuffled order.

    There are at least ``rounds`` rounds, and more until they took ``min_seconds``; fewer, but ``LEAST_ROUNDS``, of slow
    models that would take longer than ``max_seconds``. A sample is the mean of as many
    calls as last ``SAMPLE``; where that is one, one before it is not timed: the other models emptied the caches. Models
    of one thread are pinned to one CPU meanwhile, where the system allows.
    """
    for runner in runners.values():
        runner.interface.check_feeds(feeds)
    calls = {name: (lambda infer=runner.infer: infer(feeds)) for name, runner in runners.items()}
    return interleaved(
        calls, rounds=rounds, min_seconds=min_seconds, max_seconds=max_seconds, rng=rng, pin=can_pin(runners.values())
    )


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, min_seconds: float = 0.0, max_seconds: float = math.inf,
    rng: np.random.Generator, pin: bool = False,
) -> dict[str, IntArray]:  # fmt: skip
    """Time calls as ``latency`` does models; ``pin``: on one CPU, for calls that use one thread."""
    found = both_clocks(calls, rounds=rounds, min_seconds=min_seconds, max_seconds=max_seconds, rng=rng, pin=pin)
    return {name: samples.wall for name, samples in found.items()}


def both_clocks(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, min_seconds: float = 0.0, max_seconds: float = math.inf,
    least: int = LEAST_ROUNDS, rng: np.random.Generator, pin: bool = False,
) -> dict[str, Samples]:  # fmt: skip
    """Time calls in interleaved rounds, by the clock and by the time they had a CPU; ``least`` rounds of slow ones."""
    with pinned(only=pin):
        warmed = {name: _warm_up(call) for name, call in calls.items()}
        with collector_paused():
            repeats = {name: each.repeats for name, each in warmed.items()}
            taken = _rounds(calls, repeats, (least, rounds), (min_seconds * 1e9, max_seconds * 1e9), rng)
    return {
        name: Samples(times[:, 0], times[:, 1], warmed[name].calls, warmed[name].settled)
        for name, times in taken.items()
    }


def summarise(samples: Array, ratio: Estimate) -> Latency:
    """Summarise samples in nanoseconds; the ratio is against a model that was timed in the same rounds."""
    ms = samples / 1e6
    p10, p90, p99 = (percentile(ms, percent) for percent in (10, 90, 99))
    kept = ms[np.linspace(0, len(ms) - 1, min(len(ms), KEPT_SAMPLES)).round().astype(int)]
    return Latency(
        median_ms=float(np.median(ms)), mean_ms=float(ms.mean()), p10_ms=p10, p90_ms=p90, p99_ms=p99, runs=len(ms),
        ratio=ratio, samples_ms=tuple(float(round(s, 6)) for s in kept),
    )  # fmt: skip


def can_pin(runners: Iterable[Runner]) -> bool:
    """Whether ``latency`` keeps these models on one CPU: the system lets it, and each uses one thread."""
    return hasattr(os, "sched_setaffinity") and all(threads_of(r) == 1 for r in runners)


@contextlib.contextmanager
def pinned(*, only: bool = True) -> Iterator[None]:
    """Keep this thread on one CPU it may use, the last: the first serves most interrupts. No-op where unsupported.

    ``only``: False to leave it as it is, for models of several threads.
    """
    if not only or not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {max(allowed)})
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Leave cyclic garbage for later: collecting it takes as long as what is measured, or done, meanwhile."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def threads_of(runner: Runner) -> int:
    """How many threads one operator of a model uses."""
    return runner.config.intra_op_threads if isinstance(runner, OrtRunner) else 1


def on_cpu(runner: Runner) -> bool:
    """Whether a model computes where it is called from: of one on another device the CPU's time tells nothing."""
    return not isinstance(runner, OrtRunner) or runner.provider == "CPUExecutionProvider"


@dataclass(frozen=True, slots=True)
class _Warm:
    """How many calls make one sample, how many it took until they settled, and whether they did."""

    repeats: int
    calls: int
    settled: bool


def _warm_up(call: Callable[[], object]) -> _Warm:
    """Call until caches, arenas and thread pools have settled: until calls in a row get no faster any more."""
    fastest, elapsed, done, since = WARM_UP_LIMIT, 0, 0, 0
    while since < WARM_UP_CALLS or elapsed < WARM_UP:
        took, _ = _time(call, 1)
        since = 0 if took < FASTER * fastest else since + 1
        fastest, elapsed, done = min(fastest, took), elapsed + took, done + 1
        if elapsed >= WARM_UP_LIMIT and done >= WARM_UP_CALLS:
            break
    return _Warm(max(1, -(-SAMPLE // max(fastest, 1))), done, settled=since >= WARM_UP_CALLS)


def _rounds(
    calls: Mapping[str, Callable[[], object]], repeats: Mapping[str, int], rounds: tuple[int, int],
    lasting: tuple[float, float], rng: np.random.Generator,
) -> dict[str, IntArray]:  # fmt: skip
    names, (least, most) = list(calls), rounds
    samples: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
    shortest, longest = lasting
    start, done, elapsed = time.perf_counter_ns(), 0, 0
    while (done < most and (done < least or elapsed < longest)) or elapsed < shortest:
        for index in rng.permutation(len(names)):
            name = names[index]
            if repeats[name] == 1:  # a longer sample warms itself
                calls[name]()
            wall, busy = _time(calls[name], repeats[name])
            samples[name].append((wall // repeats[name], busy // repeats[name]))
        done, elapsed = done + 1, time.perf_counter_ns() - start
    return {name: np.array(taken, dtype=np.int64) for name, taken in samples.items()}


def _time(call: Callable[[], object], times: int) -> tuple[Nanoseconds, Nanoseconds]:
    """Return the wall time and the thread's CPU time of so many calls."""
    start, busy = time.perf_counter_ns(), time.thread_time_ns()
    for _ in range(times):
        call()
    return time.perf_counter_ns() - start, time.thread_time_ns() - busy
