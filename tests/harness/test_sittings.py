"""Sittings of real models, and what they say of made-up times."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np
import onnx_ir as ir
import pytest

from dlc.harness import measure, sittings
from dlc.harness.contention import STAT
from dlc.harness.measure import Samples, both_clocks, can_pin
from dlc.harness.sittings import Load, Sitting, Sittings
from dlc.harness.statistics import percentile
from dlc.runtimes.base import Runner
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from tests.harness.test_measure import chain

FEEDS = {"x": np.full((128, 128), 1 / 128, np.float32)}


@pytest.mark.parametrize(
    ("samples", "percent", "given"), [(99, 90, False), (100, 90, True), (999, 99, False), (1000, 99, True)]
)
def test_percentiles_need_samples_beyond_them(samples: int, percent: float, given: bool) -> None:
    assert (percentile(np.arange(float(samples)), percent) is not None) == given


def opener(threads: int = 1) -> sittings.Opener:
    config = SessionConfig(intra_op_threads=threads)
    models: Mapping[str, ir.Model] = {"small": chain(4), "again": chain(4), "large": chain(16)}

    @contextmanager
    def opened(_: np.random.Generator) -> Iterator[Mapping[str, Runner]]:
        with ExitStack() as stack:
            yield {n: stack.enter_context(OrtCpuRunner(m, config)) for n, m in models.items()}

    return opened


def test_sittings_of_real_models(rng: np.random.Generator) -> None:
    found = list(sittings.sit(opener(), FEEDS, count=3, rounds=8, load=Load(2, 128), rng=rng))
    assert len(found) == 3
    for sitting in found:
        assert sitting.one_thread
        assert sitting.away is not None
        assert 0 <= sitting.away < 1
        assert sitting.log_ratio("large", "small") > 0  # four times the products
        assert np.isfinite(sitting.log_ratio("again", "small"))
        assert sitting.per_second["small"] > sitting.per_second["large"] > 0


def test_several_threads_are_timed_by_the_clock(rng: np.random.Generator) -> None:
    [sitting] = sittings.sit(opener(threads=2), FEEDS, count=1, rounds=3, rng=rng)
    assert not sitting.one_thread
    assert sitting.away == sitting.crowded
    assert (sitting.crowded is not None) == STAT.is_file()
    assert sitting.per_second == {}
    samples = sitting.samples["small"]
    assert sitting.fastest_ms("small") == samples.wall.min() / 1e6


def test_what_another_device_computes_is_timed_by_the_clock(rng: np.random.Generator) -> None:
    class OnDevice(OrtCpuRunner):
        """Once it is open, it says of itself what ``OrtCudaRunner`` does."""

        def open(self) -> None:
            super().open()
            self.provider = "CUDAExecutionProvider"  # type: ignore[misc]

    for kind, own_time in ((OrtCpuRunner, can_pin([])), (OnDevice, False)):
        opened = sittings.opener({"small": lambda kind=kind: kind(chain(4))}, "small")  # type: ignore[misc]
        [sitting] = sittings.sit(opened, FEEDS, count=1, rounds=2, rng=rng)
        assert sitting.one_thread == own_time


@pytest.mark.parametrize(("one_thread", "ratio"), [(True, 2 / 6), (False, 5 / 8)])
def test_the_fastest_are_compared(one_thread: bool, ratio: float) -> None:
    """In CPU time of one thread, which leaves out that the system ran something else; else by the clock."""

    def samples(wall: tuple[int, ...], busy: tuple[int, ...]) -> Samples:
        return Samples(np.array(wall), np.array(busy), warm_up=1, settled=True)

    both = {"a": samples((90, 5, 7), (2, 5, 7)), "b": samples((8, 9, 90), (8, 9, 6))}
    assert np.exp(Sitting(both, {}, one_thread).log_ratio("a", "b")) == pytest.approx(ratio)


def test_a_clock_of_the_cpu_that_ticks_seldom_is_not_used(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick = 10_000_000
    monkeypatch.setattr("dlc.harness.measure.time.thread_time_ns", lambda: time.perf_counter_ns() // tick * tick)
    [sitting] = sittings.sit(opener(), FEEDS, count=1, rounds=3, rng=rng)
    assert not sitting.one_thread
    assert sitting.log_ratio("large", "small") > 0


def test_time_without_a_cpu_is_told_apart(rng: np.random.Generator) -> None:
    """A call that only sleeps takes wall time, and none of a CPU."""
    [samples] = both_clocks({"asleep": lambda: time.sleep(0.002)}, rounds=5, rng=rng).values()
    assert np.median(samples.wall) >= 2_000_000
    assert np.median(samples.busy) < 1_000_000
    times = np.array([2, 4]), np.array([1, 2])
    half = Samples(*times, warm_up=1, settled=True)
    assert Sitting({"a": half}, {}, one_thread=True, crowded=0.1).away == 0.5
    several = [Sitting({"a": half}, {}, one_thread=False, crowded=share) for share in (None, 0.1, 0.2, 0.9)]
    assert [s.away for s in several] == [None, 0.1, 0.2, 0.9]
    assert Sittings(several, "a").away == 0.2
    assert Sittings(several[:1], "a").away is None


def test_warming_up_lasts_until_calls_get_no_faster(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of 30 ms that get faster by 6 % each, ten times, are not warm after the three that suffice for others."""
    clock, made = [0], [0]

    def call() -> None:
        clock[0] += round(30e6 * 0.94 ** min(made[0], 10))
        made[0] += 1

    monkeypatch.setattr("dlc.harness.measure.time.perf_counter_ns", lambda: clock[0])
    monkeypatch.setattr("dlc.harness.measure.time.thread_time_ns", lambda: clock[0])
    [samples] = both_clocks({"slow to start": call}, rounds=2, rng=rng).values()
    assert samples.settled
    assert samples.warm_up == 11 + measure.WARM_UP_CALLS


def test_single_calls() -> None:
    calls = sittings.distribution(lambda: None, most=50)
    assert len(calls) == 50
    import time

    assert len(sittings.distribution(lambda: time.sleep(0.01), seconds=0.05)) <= 5
