"""Whether the gate is quiet when nothing is wrong, and speaks when something is.

    python -m benchmarks.gate coverage                 intervals on simulated data with a known truth
    python -m benchmarks.gate false-alarms [--busy]    one artifact against itself; --busy: with the other core loaded
    python -m benchmarks.gate accuracy                 a loss of 2 points among 1,000 examples
    python -m benchmarks.gate latency [--busy]         a model that takes 10 % longer

The last three judge digits-cnn, compiled anew in a folder that vanishes (or ``--artifact``). Each gate of the false
alarms is a process of its own, as in CI; so is the one that recorded the baseline.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dlc.artifact import Artifact
from dlc.gate.flow import gate
from dlc.gate.judging import judge
from dlc.gate.limits import Limits
from dlc.gate.measuring import observe
from dlc.gate.observation import Observation, Rows
from dlc.gate.timing import RECORDED, How
from dlc.harness import proportions, ratios, sittings, statistics
from dlc.harness.accuracy import METRICS
from dlc.manifest import Estimate
from dlc.progress import Silent
from dlc.runtimes.base import Runner
from dlc.sources.recipe_files import load_recipe
from dlc.stages.evidence import Subject
from dlc.types import Feeds, Outputs

MODEL = "digits-cnn"
TIMES = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("coverage", "false-alarms", "accuracy", "latency"))
    parser.add_argument("--artifact", type=Path, help="artifact of digits-cnn with fp32 and int8")
    parser.add_argument("--times", type=int, default=TIMES)
    parser.add_argument("--busy", action="store_true", help="load the other core meanwhile")
    arguments = parser.parse_args()
    if arguments.what == "coverage":
        coverage(10 * arguments.times)
        return
    with tempfile.TemporaryDirectory(prefix="dlc-gate-") as scratch:
        artifact = arguments.artifact or compiled(Path(scratch))
        of: dict[str, Callable[..., None]] = {
            "false-alarms": false_alarms, "accuracy": accuracy_loss, "latency": slow_down,
        }  # fmt: skip
        of[arguments.what](artifact, Path(scratch), arguments.times, busy=arguments.busy)


def compiled(scratch: Path) -> Path:
    command = [sys.executable, "-m", "dlc", "compile", MODEL, "--variants", "fp32,int8", "-o", str(scratch)]
    subprocess.run(command, check=True, capture_output=True)
    return scratch / MODEL


def false_alarms(artifact: Path, scratch: Path, times: int, *, busy: bool) -> None:
    """Gate one artifact against a baseline of itself, again and again."""
    file = scratch / "baseline.json"
    apart(_record, artifact, file)
    seconds, found, failed = [], Counter[str](), Counter[str]()
    with loaded_core() if busy else contextlib.nullcontext():
        for _ in range(times):
            start = time.perf_counter()
            verdict, lines = apart(_gated, artifact, file)
            seconds.append(time.perf_counter() - start)
            found[verdict] += 1
            failed.update(line for line in lines if not line.startswith("pass"))
    print(f"| identical artifact{', other core loaded' if busy else ''} | " + " | ".join(
        f"{found[s]} {s}" for s in ("pass", "inconclusive", "fail")
    ) + f" | median {np.median(seconds):.1f} s |")  # fmt: skip
    for line, count in failed.most_common(5):
        print(f"    {count} x {line}")


def accuracy_loss(artifact: Path, _scratch: Path, times: int, **_unused: bool) -> None:
    """Turn answers of int8 wrong, 2 points of 1,000 examples on average, beside an FP32 of 95 %.

    The rows are drawn; measuring the rest, the judge and the correction for several gates are the gate's own. The
    second row also turns half a point to right, and as many more to wrong.
    """
    [seen] = observe([Artifact.load(artifact)], load_recipe(MODEL), How().recording(), Silent())
    rng, limits = np.random.default_rng(0), Limits()
    for gained in (0.0, 0.005):
        found = Counter[str]()
        for _ in range(times):
            right = rng.random(1000) < 0.95
            changed = rng.random(1000)
            worse = np.where(right, changed >= (0.02 + gained) / 0.95, changed < gained / 0.05)
            before, now = scored(seen, right, right, "before"), scored(seen, right, worse, "now")
            lines = judge(now, before, limits, METRICS["top1"])
            found[next(line.status or "" for line in lines if line.name == "int8/accuracy since baseline")] += 1
        print(
            f"| int8 loses {2 + 100 * gained:g} points of 1,000 examples, gains {100 * gained:g} | {found['fail']} "
            f"of {times} fail | {dict(found)} |", flush=True,
        )  # fmt: skip


def scored(seen: Observation, reference: Any, candidate: Any, outputs: str) -> Observation:
    """Put other answers in the place of the measured ones."""
    import msgspec

    variants = []
    for variant in seen.variants:
        rows = (reference if variant.precision == seen.reference else candidate).astype(np.float64).reshape(-1, 1)
        assert variant.score is not None
        value = statistics.metric(rows, METRICS["top1"].statistic, rng=np.random.default_rng(0), resamples=100)
        score = msgspec.structs.replace(variant.score, rows=Rows.of(rows), value=value)
        variants.append(msgspec.structs.replace(variant, score=score, outputs=outputs))
    return msgspec.structs.replace(seen, variants=tuple(variants))


def slow_down(artifact: Path, scratch: Path, times: int, *, busy: bool) -> None:
    """Let every call of int8 take 10 % longer: it computes until that much more time has passed."""
    file = scratch / "baseline.json"
    apart(_record, artifact, file)
    found, values = Counter[str](), []
    with loaded_core() if busy else contextlib.nullcontext():
        for _ in range(times):
            verdict, value = apart(_slowed, artifact, file)
            found[verdict] += 1
            values.append(value)
    low, middle, high = np.percentile(values, (5, 50, 95))
    print(
        f"| int8 slowed by 10 %{', other core loaded' if busy else ''} | {found['fail']} of {times} fail "
        f"| {dict(found)} | seen as {middle:.3f}× ({low:.3f}–{high:.3f}) |"
    )


class Slowed(Runner):
    """Another runner, whose every call takes a tenth longer, what this class itself takes included."""

    name = "slowed"

    def __init__(self, inner: Runner):
        self.inner, self.config = inner, getattr(inner, "config", None)

    def open(self) -> None:
        """Open it, and see how long a call takes that has nothing to slow."""
        self.inner.open()
        self.interface = self.inner.interface
        start = time.thread_time_ns()
        for _ in range(1000):
            lengthened(dict, 0)
        self.own = (time.thread_time_ns() - start) // 1000

    def close(self) -> None:
        """Close it."""
        self.inner.close()

    def infer(self, feeds: Feeds) -> Outputs:
        """Run it, and compute on."""
        return lengthened(lambda: self.inner.infer(feeds), self.own)


def lengthened(call: Callable[[], Outputs], own: int) -> Outputs:
    """Call, then compute on for a tenth of the time that it took, less ``own`` nanoseconds."""
    start = time.thread_time_ns()
    outputs = call()
    end = time.thread_time_ns()
    until = end + (end - start) // 10 - own
    while time.thread_time_ns() < until:
        pass
    return outputs


def _slowed(artifact: Path, file: Path) -> tuple[str, float]:
    plain = Subject.runner
    Subject.runner = lambda self: Slowed(plain(self)) if self.name == "int8" else plain(self)  # type: ignore[method-assign]
    outcome = gate(Artifact.load(artifact), load_recipe(MODEL), Limits(), How(), against=file)
    line = next(line for line in outcome.lines if line.name == "int8/latency since baseline")
    return line.status or "", line.value or 0.0


def _gated(artifact: Path, file: Path) -> tuple[str, list[str]]:
    outcome = gate(Artifact.load(artifact), load_recipe(MODEL), Limits(), How(), against=file)
    return outcome.status, [str(line) for line in outcome.lines if line.status]


def _record(artifact: Path, file: Path) -> None:
    outcome = gate(Artifact.load(artifact), load_recipe(MODEL), Limits(), How(), against=file, update=True)
    assert outcome.written == file, outcome.lines


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Call in a fresh process, in which nothing has run; what is imported is forked from one that did no more."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["dlc.gate.flow", "dlc.gate.baseline", "onnxruntime", "scipy.stats", "sklearn.datasets"]
    )
    with context.Pool(1) as pool:
        return pool.apply(work, arguments)


@contextlib.contextmanager
def loaded_core() -> Iterator[None]:
    """Keep one more process of one thread busy with matrix products of its own."""
    code = "import numpy as np\na = np.ones((512, 512), np.float32)\nwhile True: a @ a"
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    try:
        yield
    finally:
        child.kill()
        child.wait()


Intervals = dict[str, tuple[Estimate, float]]
"""Name of an interval to the interval and the truth."""


def coverage(trials: int) -> None:
    """Print how many of the 95 % intervals hold the truth."""
    print("| interval | holds the truth |\n|---|---|")
    for name, share, draw in worlds():
        rng, held, count = np.random.default_rng(0), Counter[str](), max(1, round(share * trials))
        for _ in range(count):
            for what, (estimate, truth) in draw(rng).items():
                held[what] += estimate.low <= truth <= estimate.high
        for what, holds in held.items():
            print(f"| {what}{name} | {100 * holds / count:.1f} % of {count} |", flush=True)


def worlds() -> Iterator[tuple[str, float, Callable[[np.random.Generator], Intervals]]]:
    """Each simulation: its name, its share of the trials (a rank correlation takes long), and its draw."""
    for n, right, lost, gained in ((599, 0.97, 0.02, 0.01), (1000, 0.9, 0.03, 0.01), (500, 0.89, 0.015, 0.01)):
        shape = f", n = {n}: {100 * right:g} % right, {100 * lost:g} % lost, {100 * gained:g} % gained"
        yield shape, 4.0, partial(top1, n=n, right=right, lost=lost, gained=gained)
    for n, noise in ((1379, 0.1), (300, 0.3)):
        yield f", n = {n}", 0.4, partial(spearman, n=n, noise=noise)
    yield "", 4.0, latencies
    yield "", 1.0, one_run


def top1(rng: np.random.Generator, *, n: int, right: float, lost: float, gained: float) -> Intervals:
    reference, changed = rng.random(n) < right, rng.random(n)
    candidate = np.where(reference, changed >= lost / right, changed < gained / (1 - right))
    counts = proportions.pairs(*(each.astype(np.float64).reshape(-1, 1) for each in (reference, candidate)))
    assert counts is not None
    return {
        "top-1 drop": (proportions.difference(counts), lost - gained),
        "top-1 retention": (proportions.ratio(counts), (right - lost + gained) / right),
    }


def spearman(rng: np.random.Generator, *, n: int, noise: float) -> Intervals:
    """Of a bivariate normal the rank correlation is 6/pi asin(r/2)."""
    a, b = (600 / np.pi * np.arcsin(r / 2) for r in (0.82, 0.82 / (1 + noise**2) ** 0.5))
    target = rng.standard_normal(n)
    score = 0.82 * target + (1 - 0.82**2) ** 0.5 * rng.standard_normal(n)
    rows = [np.stack([s, target], axis=1) for s in (score, score + noise * rng.standard_normal(n))]
    found = statistics.paired(rows[0], rows[1], METRICS["spearman"].statistic, rng=rng, resamples=400)
    return {"Spearman drop": (found.drop, a - b), "Spearman retention": (found.retention, b / a)}


def logs(rng: np.random.Generator, ratio: float, count: int = sittings.SITTINGS) -> list[float]:
    """Draw sittings: 1 % between them, 24 lognormal rounds of 5 % common and 2 % own noise, every tenth one tripled."""
    found = []
    for _ in range(count):
        common = 0.05 * rng.standard_normal(24)
        own = np.exp(common + 0.02 * rng.standard_normal((2, 24))) * np.where(rng.random((2, 24)) < 0.1, 3, 1)
        a, b = np.min(own, axis=1)
        found.append(float(np.log(ratio * a / b) + 0.01 * rng.standard_normal()))
    return found


def latencies(rng: np.random.Generator) -> Intervals:
    now, then = logs(rng, 0.55), logs(rng, 0.5, RECORDED)
    return {
        "latency ratio, 7 sittings": (ratios.ratio(now), 0.55),
        "latency since baseline, 7 against 21 sittings": (ratios.shift(now, then, same=False).factor, 1.1),
    }


def one_run(rng: np.random.Generator) -> Intervals:
    common = 0.2 * rng.standard_normal(200)
    a, b = (1e6 * np.exp(common + 0.1 * rng.standard_normal(200)) for _ in range(2))
    return {"latency ratio of dlc bench, 200 rounds": (ratios.fastest(0.8 * a, b), 0.8)}


if __name__ == "__main__":
    main()
