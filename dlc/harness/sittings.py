"""How two latencies compare beyond one run: in several sittings, each with sessions of its own, beside A against A.

Within one sitting the ratio of two medians is steady to a few parts in a thousand; where the sessions' memory came to
lie, and what the machine did meanwhile, moves it by more. So a ratio is taken in each of several sittings, and its
interval is that of Student's t on their logarithms. The reference is timed against a second session of itself, and how
far that ratio strays from 1 is the noise floor: no change below it can be told.
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
from dlc.manifest import Estimate
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

Opener = Callable[[], AbstractContextManager[Mapping[str, Runner]]]
"""Opens all models in sessions of their own."""


@dataclass(frozen=True, slots=True)
class Sitting:
    """One sitting's samples of each model; ``per_second``: examples of each, where throughput was asked for.

    ``one_thread``: a call takes the CPU time of one thread. ``crowded``: share of the time in which others had a CPU
    that was needed (``contention``); None where unknown.
    """

    samples: Mapping[str, Samples]
    per_second: Mapping[str, float]
    one_thread: bool
    crowded: float | None = None

    def log_ratio(self, name: str, reference: str) -> float:
        """Return log(median / the reference's median): of CPU time where the models use one thread."""
        a, b = (np.median(self._times(self.samples[n])) for n in (name, reference))
        return float(np.log(a / b))

    @property
    def away(self) -> float | None:
        """Share of the wall time in which a CPU did something else; None where that is unknown."""
        if not self.one_thread:
            return self.crowded
        wall, busy = (sum(int(getattr(s, kind).sum()) for s in self.samples.values()) for kind in ("wall", "busy"))
        return max(0.0, 1 - busy / wall)  # two clocks: that of the CPU may tick last

    def median_ms(self, name: str) -> float:
        """Return one model's median, in milliseconds."""
        return float(np.median(self._times(self.samples[name]))) / 1e6

    def _times(self, samples: Samples) -> Floats:
        return np.asarray(samples.busy if self.one_thread else samples.wall, np.float64)


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


def opener(runners: Mapping[str, Callable[[], Runner]], reference: str) -> Opener:
    """Open each model in a session of its own, and the reference in two."""

    @contextmanager
    def opened() -> Iterator[Mapping[str, Runner]]:
        with ExitStack() as stack:
            yield {name: stack.enter_context(make()) for name, make in {**runners, AGAIN: runners[reference]}.items()}

    return opened


def sit(
    opener: Opener, feeds: Feeds, *, count: int = SITTINGS, rounds: int = ROUNDS, least: int = LEAST_ROUNDS,
    max_seconds: float = math.inf, load: Load | None = None, rng: np.random.Generator,
) -> Iterator[Sitting]:  # fmt: skip
    """Time all models ``count`` times over, each time in new sessions, and at least ``least`` rounds."""
    for _ in range(count):
        with opener() as runners:
            pin = can_pin(runners.values())
            calls = {name: (lambda infer=runner.infer: infer(feeds)) for name, runner in runners.items()}
            start = Moment.now()
            samples = both_clocks(calls, rounds=rounds, max_seconds=max_seconds, least=least, rng=rng, pin=pin)
            most = max(map(threads_of, runners.values()))
            beside = crowded(start, Moment.now(), threads=most, cpus=len(usable()))
            order = rng.permutation(list(calls)) if load else ()
            rates = {name: _per_second(calls[name], load) for name in order if load}
            own_time = pin and all(map(on_cpu, runners.values()))
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


def ratio(logs: Sequence[float], floor: float = 0.0) -> Estimate:
    """Estimate a ratio from its logarithm in each sitting: Student's t with one degree less than sittings.

    ``floor``: as of ``shift``.
    """
    middle, spread = _mean(logs, floor)
    half = spread * _t(len(logs) - 1)
    return Estimate(value=_exp(middle), low=_exp(middle - half), high=_exp(middle + half))


@dataclass(frozen=True, slots=True)
class Shift:
    """By which factor a ratio moved; ``slower``: one-sided p-value that it did not rise."""

    factor: Estimate
    slower: float


def shift(now: Sequence[float], before: Sequence[float], *, same: bool, floor: float = 0.0) -> Shift:
    """Compare logs of ratios: of the ``same`` sittings in pairs, else as two samples (B. L. Welch, 1947).

    ``floor``: standard deviation of A against A in one sitting; the difference is taken to be no steadier than that.
    """
    from scipy.stats import t

    if same:
        middle, error = _mean(np.subtract(now, before), floor)
        freedom = float(len(now) - 1)
    else:
        (a, ea), (b, eb) = _mean(now, floor), _mean(before, floor)
        middle, error = a - b, float(np.hypot(ea, eb))
        freedom = error**4 / (ea**4 / (len(now) - 1) + eb**4 / (len(before) - 1)) if error > 0 else 1.0
    half = error * float(t.ppf(0.975, freedom))
    chance = float(t.sf(middle / error, freedom)) if error > 0 else float(middle <= 0)
    return Shift(Estimate(value=_exp(middle), low=_exp(middle - half), high=_exp(middle + half)), chance)


def _mean(logs: Sequence[float] | Floats, floor: float = 0.0) -> tuple[float, float]:
    values = np.asarray(logs, np.float64)
    own = float(values.std(ddof=1)) if len(values) > 1 else float("inf")
    return float(values.mean()), max(own, floor) / float(np.sqrt(len(values)))


def _t(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, freedom)) if freedom > 0 else float("inf")


def _exp(x: float) -> float:
    return float(np.exp(np.clip(x, -700, 700)))  # within the doubles


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
