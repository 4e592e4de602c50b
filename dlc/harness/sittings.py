"""How two latencies compare beyond one run: in several sittings, each with sessions of its own, beside A against A.

Whatever else a machine does only ever adds to a latency, and adds more to a short call's than to a long one's: beside
another process on the same core the ratio of two medians moved by 5 %, that of the fastest samples by half a percent.
So the fastest are compared (as J. Chen and J. Revels do, 2016, "Robust benchmarking in noisy environments"); what slows
only some calls shows in their percentiles. Where the sessions' memory came to lie moves a ratio, too, so it is taken in
each of several sittings, whose logarithms ``ratios`` puts together. The reference is timed against a second session of
itself, and how far that ratio strays from 1 is the noise floor: no mean is taken to be steadier.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from dlc.harness.contention import Moment, crowded, usable
from dlc.harness.measure import LEAST_ROUNDS, Samples, both_clocks, can_pin, collector_paused, on_cpu, threads_of
from dlc.runtimes.base import Runner
from dlc.types import Feeds, Floats

SITTINGS = 7
ROUNDS = 24
AGAIN = "again"
"""Name of the reference's second session."""
DISTRIBUTION = 1000
"""Most single calls of which percentiles are taken."""
SECONDS = 1.5
"""Longest that those calls may take; a model of 2 ms has its 1,000 calls or nearly so."""
WINDOW = 0.15
"""Seconds over which calls are counted for a throughput."""

Opener = Callable[[np.random.Generator], AbstractContextManager[Mapping[str, Runner]]]
"""Opens all models in sessions of their own; the generator is for an order that is drawn."""


@dataclass(frozen=True, slots=True)
class Sitting:
    """One sitting's samples of each model; ``per_second``: examples of each, where throughput was asked for.

    ``one_thread``: a call takes the CPU time of one thread, by a clock that can tell. ``crowded``: share of the time in
    which others had a CPU that was needed (``contention``); None where unknown.
    """

    samples: Mapping[str, Samples]
    per_second: Mapping[str, float]
    one_thread: bool
    crowded: float | None = None

    def log_ratio(self, name: str, reference: str) -> float:
        """Return log(fastest / the reference's fastest): of CPU time where the models use one thread."""
        return math.log(self.fastest_ms(name) / self.fastest_ms(reference))

    @property
    def away(self) -> float | None:
        """Share of the wall time in which a CPU did something else; None where that is unknown."""
        if not self.one_thread:
            return self.crowded
        wall, busy = (sum(int(getattr(s, kind).sum()) for s in self.samples.values()) for kind in ("wall", "busy"))
        return max(0.0, 1 - busy / wall)  # two clocks: that of the CPU may tick last

    def fastest_ms(self, name: str) -> float:
        """Return one model's fastest sample, in milliseconds."""
        samples = self.samples[name]
        return float(np.min(samples.busy if self.one_thread else samples.wall)) / 1e6


@dataclass(frozen=True, slots=True)
class Sittings:
    """All sittings of one measurement, in which the reference was timed twice."""

    each: Sequence[Sitting]
    reference: str

    def logs(self, name: str) -> tuple[float, ...]:
        """Log of a model's latency against the reference's, of each sitting."""
        return tuple(s.log_ratio(name, self.reference) for s in self.each)

    @property
    def again(self) -> tuple[float, ...]:
        """The same of the reference's second session: A against A."""
        return self.logs(AGAIN)

    @property
    def away(self) -> float | None:
        """Share of the time in which the system ran something else, of the middle sitting; None where unknown."""
        known = [s.away for s in self.each if s.away is not None]
        return float(np.median(known)) if known else None

    def settled(self, name: str) -> int:
        """In how many sittings a model's warm-up came to an end."""
        return sum(s.samples[name].settled for s in self.each)

    def wall(self, name: str) -> Floats:
        """Wall time of every sample of a model in nanoseconds, [sittings * rounds]."""
        return np.concatenate([s.samples[name].wall for s in self.each]).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Load:
    """What throughput is counted under: calls at once, and examples that each carries."""

    concurrency: int
    examples: int


def opener(runners: Mapping[str, Callable[[], Runner]], reference: str, *, drawn: bool = False) -> Opener:
    """Open each model in a session of its own, and the reference in two.

    The first session of a process that freed much lies elsewhere in memory than those after it: opened first in each
    sitting, FP32 MiniLM took 3 % longer than its twin, opened last. An order that is ``drawn`` shares that out among
    models, for a ratio that stands alone; a fixed one cancels where two measurements of one kind are compared.
    """
    each = {**runners, AGAIN: runners[reference]}

    @contextmanager
    def opened(rng: np.random.Generator) -> Iterator[Mapping[str, Runner]]:
        with ExitStack() as stack:
            found = {
                name: stack.enter_context(each[name]()) for name in (rng.permutation(list(each)) if drawn else each)
            }
            yield {name: found[name] for name in each}

    return opened


def sit(
    opener: Opener, feeds: Feeds, *, count: int = SITTINGS, rounds: int = ROUNDS, least: int = LEAST_ROUNDS,
    max_seconds: float = math.inf, load: Load | None = None, rng: np.random.Generator,
) -> Iterator[Sitting]:  # fmt: skip
    """Time all models ``count`` times over, each time in new sessions, and at least ``least`` rounds."""
    for _ in range(count):
        with opener(rng) as runners:
            pin = can_pin(runners.values())
            calls = {name: (lambda infer=runner.infer: infer(feeds)) for name, runner in runners.items()}
            start = Moment.now()
            samples = both_clocks(calls, rounds=rounds, max_seconds=max_seconds, least=least, rng=rng, pin=pin)
            most = max(map(threads_of, runners.values()))
            beside = crowded(start, Moment.now(), threads=most, cpus=len(usable()))
            order = rng.permutation(list(calls)) if load else ()
            rates = {name: _per_second(calls[name], load) for name in order if load}
            told = all(s.busy.min() > 0 for s in samples.values())
            own_time = pin and told and all(map(on_cpu, runners.values()))
        yield Sitting(samples, rates, own_time, beside)


def distribution(call: Callable[[], object], *, most: int = DISTRIBUTION, seconds: float = SECONDS) -> Floats:
    """Return the wall time of single calls in milliseconds, [n]: as many as fit."""
    taken: list[int] = []
    start = time.perf_counter_ns()
    with collector_paused():
        while len(taken) < most and time.perf_counter_ns() - start < seconds * 1e9:
            before = time.perf_counter_ns()
            call()
            taken.append(time.perf_counter_ns() - before)
    return np.array(taken) / 1e6


def _per_second(call: Callable[[], object], load: Load) -> float:
    """Count the examples that so many threads get through in a window, per second."""
    stop = threading.Event()

    def work() -> int:
        done = 0
        while not stop.is_set():
            call()
            done += 1
        return done

    with ThreadPoolExecutor(load.concurrency) as pool:
        start = time.perf_counter()
        workers = [pool.submit(work) for _ in range(load.concurrency)]
        wait(workers, timeout=WINDOW, return_when=FIRST_EXCEPTION)
        stop.set()
        done = sum(worker.result() for worker in workers)
        return done * load.examples / (time.perf_counter() - start)
