from __future__ import annotations

import gc
import itertools
import os
import time

import numpy as np
import onnx_ir as ir
import pytest

from dlc.errors import DataError, ModelError
from dlc.harness.measure import KEPT_SAMPLES, LEAST_ROUNDS, interleaved, latency, summarise
from dlc.harness.ratios import fastest
from dlc.manifest import Estimate
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.types import Feeds, Outputs

ALL = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
"""CPUs before any test ran: a test that compared with the moment before it would not see what an earlier one left."""
needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")

EQUAL = Estimate(value=1.0, low=1.0, high=1.0)
TINY = '<ir_version: 10, opset_import: ["" : 20]> g (float[1] x) => (float[1] y) { y = Relu (x) }'


def chain(products: int) -> ir.Model:
    """128x128 matrix products in a row."""
    names = ["x", *(f"t{i}" for i in range(products - 1)), "y"]
    lines = "\n".join(f"{b} = MatMul ({a}, x)" for a, b in itertools.pairwise(names))
    return ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["" : 20]> g (float[128, 128] x) => (float[128, 128] y) {{ {lines} }}'
    )


class Watched(OrtCpuRunner):
    """Also notes what surrounds each call."""

    label = ""
    log: list[tuple[str, frozenset[int], bool]]

    def infer(self, feeds: Feeds) -> Outputs:
        self.log.append((self.label, frozenset(os.sched_getaffinity(0)), gc.isenabled()))
        return super().infer(feeds)


@pytest.fixture
def matrix() -> Feeds:
    return {"x": np.full((128, 128), 1 / 128, np.float32)}


def watched(threads: int, matrix: Feeds, rng: np.random.Generator) -> list[tuple[str, frozenset[int], bool]]:
    log: list[tuple[str, frozenset[int], bool]] = []
    config = SessionConfig(intra_op_threads=threads)
    model = chain(8)
    with Watched(model, config) as a, Watched(model, config) as b, Watched(model, config) as c:
        a.log = b.log = c.log = log
        a.label, b.label, c.label = "abc"
        latency({"a": a, "b": b, "c": c}, matrix, rounds=30, rng=rng)
    return log


def test_four_times_the_work_takes_about_four_times_as_long(matrix: Feeds, rng: np.random.Generator) -> None:
    with OrtCpuRunner(chain(4)) as small, OrtCpuRunner(chain(16)) as large:
        samples = latency({"small": small, "large": large}, matrix, rounds=60, rng=rng)
    ratio = fastest(samples["large"], samples["small"])
    # the cost of a call itself, tens of microseconds beside 4 x ~60, pulls the ratio below 4; noise goes both ways
    assert 2.5 < ratio.value < 5


def test_time_is_per_call_in_nanoseconds(rng: np.random.Generator) -> None:
    """A call of a few microseconds is repeated dozens of times a sample; its time is still that of one call."""
    feeds = {"x": np.ones(1, np.float32)}
    with OrtCpuRunner(ir.from_onnx_text(TINY)) as runner:
        [samples] = latency({"tiny": runner}, feeds, rounds=40, rng=rng).values()
        start = time.perf_counter_ns()
        for _ in range(500):
            runner.infer(feeds)
        mean = (time.perf_counter_ns() - start) / 500
    assert samples.dtype == np.int64
    assert len(samples) == 40
    assert mean / 5 < np.median(samples) < 5 * mean  # a factor of 5 for a busy machine, far from the repeats


def test_rounds_interleave_in_changing_order(matrix: Feeds, rng: np.random.Generator) -> None:
    names = "".join(name for name, _, collecting in watched(1, matrix, rng) if not collecting)
    runs = [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    assert all(names.count(n) >= 30 for n in "abc")
    assert len(runs) > 60  # 90 samples; only equal neighbours across rounds merge
    assert len({"".join(runs[i : i + 3]) for i in range(len(runs) - 2)}) > 3  # a fixed rotation has only 3


@needs_affinity
def test_one_cpu_while_measuring_and_all_after(matrix: Feeds, rng: np.random.Generator) -> None:
    assert {cpus for _, cpus, _ in watched(1, matrix, rng)} == {frozenset({max(ALL)})}
    assert os.sched_getaffinity(0) == ALL


@needs_affinity
def test_several_threads_are_not_pinned(matrix: Feeds, rng: np.random.Generator) -> None:
    assert {cpus for _, cpus, _ in watched(2, matrix, rng)} == {frozenset(ALL)}


def test_no_garbage_collection_while_measuring(matrix: Feeds, rng: np.random.Generator) -> None:
    log = watched(1, matrix, rng)
    assert sum(not collecting for _, _, collecting in log) >= 90
    assert gc.isenabled()


@needs_affinity
def test_settings_come_back_after_a_failure(rng: np.random.Generator) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]> g (float[a, 2] x, float[2, b] y) => (float[a, b] z) {
     t = Transpose (x)
     z = MatMul (t, y) }"""
    with OrtCpuRunner(ir.from_onnx_text(text)) as runner, pytest.raises(ModelError, match="failed while running"):
        latency({"a": runner}, {"x": np.ones((3, 2), np.float32), "y": np.ones((2, 5), np.float32)}, rounds=2, rng=rng)
    assert os.sched_getaffinity(0) == ALL
    assert gc.isenabled()


def test_at_least_so_many_seconds(matrix: Feeds, rng: np.random.Generator) -> None:
    with OrtCpuRunner(chain(2)) as runner:
        start = time.perf_counter()
        [samples] = latency({"a": runner}, matrix, rounds=1, min_seconds=0.3, rng=rng).values()
    assert time.perf_counter() - start >= 0.3
    assert len(samples) > 1


def test_slow_calls_get_the_least_rounds(rng: np.random.Generator) -> None:
    slow = {"asleep": lambda: time.sleep(0.002)}
    [samples] = interleaved(slow, rounds=400, max_seconds=0.01, rng=rng).values()
    assert len(samples) == LEAST_ROUNDS
    [samples] = interleaved(slow, rounds=3, max_seconds=0.001, rng=rng).values()
    assert len(samples) == 3


def test_feeds_are_checked_before_anything_runs(matrix: Feeds, rng: np.random.Generator) -> None:
    with OrtCpuRunner(chain(2)) as runner, pytest.raises(DataError, match="no input is named 'image'"):
        latency({"a": runner}, {"image": matrix["x"]}, rounds=1, rng=rng)


def test_summary() -> None:
    samples = np.arange(1, 1002) * 1000  # 1 to 1001 microseconds
    summary = summarise(samples, fastest(samples, 2 * samples))
    assert summary.p99_ms == pytest.approx(0.991, rel=4 * 2.3e-16)
    assert (summary.median_ms, summary.p10_ms, summary.p90_ms) == pytest.approx((0.501, 0.101, 0.901), rel=4 * 2.3e-16)
    assert summary.mean_ms == pytest.approx(0.501, rel=4 * 1001 * 2.3e-16)
    assert summary.runs == 1001
    assert summary.ratio.value == pytest.approx(0.5)
    assert len(summary.samples_ms) == KEPT_SAMPLES
    assert (summary.samples_ms[0], summary.samples_ms[-1]) == (0.001, 1.001)


@pytest.mark.parametrize(
    ("runs", "given"), [(99, ()), (100, ("p10_ms", "p90_ms")), (1000, ("p10_ms", "p90_ms", "p99_ms"))]
)
def test_percentiles_need_samples_beyond_them(runs: int, given: tuple[str, ...]) -> None:
    summary = summarise(np.arange(runs), EQUAL)
    names = ("p10_ms", "p90_ms", "p99_ms")
    assert tuple(name for name in names if getattr(summary, name) is not None) == given


def test_few_samples_are_all_kept() -> None:
    assert summarise(np.array([3_000_000, 1_000_000]), EQUAL).samples_ms == (3.0, 1.0)
