"""What measured rewriting brings, against stock ONNX Runtime and against OpenVINO with NNCF, one thread.

    DLC_DATA=... python -m benchmarks.rewriting [--rounds 100] [--no-openvino]

Every dlc model is compiled as ``dlc compile`` does and loaded from its file by a plain session; "stock" is the graph
as it was exported, with all of ONNX Runtime's optimisations. The models of one table are timed in turns, in one run;
ratios are of the fastest runs, with 95 % intervals. OpenVINO and NNCF run in an environment and a process of their own,
on the same CPU, and time themselves. ``predicted`` is what the places measured one by one add up to.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnxruntime.quantization import quantize_dynamic

import dlc
from benchmarks.peers import OpenVino
from dlc.artifact import MODEL, Artifact
from dlc.errors import CapabilityError
from dlc.export import Exported, export
from dlc.feeds import seeded_feeds, typical_sizes
from dlc.harness.measure import SAMPLE, pinned
from dlc.harness.ratios import fastest
from dlc.interface import Interface
from dlc.models import ZOO
from dlc.recipe import Recipe
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.target import Target, detect
from dlc.types import Array, Feeds, Nanoseconds

SEED = 0
LENGTHS = (8, 32, 128)
BARS = {"dlc fp32 / stock fp32": (0.90,) * 3, "dlc int8 / quantize_dynamic": (0.75,) * 3,
        "dlc int8 / NNCF int8": (0.75, 0.75, 1.0)}  # fmt: skip

Timer = Callable[[int], Nanoseconds]
"""Runs a model so many times; returns what they took."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=100, help="timed rounds of each table row")
    parser.add_argument("--no-openvino", action="store_true", help="leave out OpenVINO and NNCF")
    arguments = parser.parse_args()
    target = detect()
    print(f"{target.runtime}, {target.arch}, {' '.join(target.isa)}, one thread\n")
    with tempfile.TemporaryDirectory(prefix="dlc-rewriting-") as folder:
        compiled = dict(compile_all(target, Path(folder)))
        if "minilm" in compiled:
            minilm(*compiled["minilm"], Path(folder), arguments.rounds, openvino=not arguments.no_openvino)
        zoo(compiled, arguments.rounds)


def compile_all(target: Target, folder: Path) -> Iterator[tuple[str, tuple[Recipe, Exported, Artifact]]]:
    """Compile every model of the zoo whose package is there, and say which are left out."""
    for name in ZOO:
        try:
            recipe = dlc.load_recipe(name)
        except CapabilityError as error:
            print(f"{name} is left out: {error}\n", flush=True)
            continue
        yield name, compile_(recipe, target, folder)


def compile_(recipe: Recipe, target: Target, folder: Path) -> tuple[Recipe, Exported, Artifact]:
    """Compile one model of the zoo, measuring everything anew, and keep the stock graph beside it."""
    options = dlc.Options(variants=("fp32", "int8"), evaluate=False)
    artifact = dlc.compile(recipe, target, folder, options).artifact
    exported = export(recipe, opset=target.opset, ir_version=target.ir_version, seed=SEED)
    ir.save(exported.model.clone(), folder / f"{recipe.name}.onnx")
    return recipe, exported, artifact


def minilm(
    recipe: Recipe, exported: Exported, artifact: Artifact, folder: Path, rounds: int, *, openvino: bool
) -> None:
    """FP32 and int8 at three sequence lengths."""
    files = {
        "stock fp32": folder / "minilm.onnx", "quantize_dynamic": quantized_by_ort(exported.model, folder),
        "dlc fp32": artifact.path / "fp32" / MODEL, "dlc int8": artifact.path / "int8" / MODEL,
    }  # fmt: skip
    with ExitStack() as stack:
        runners = {name: stack.enter_context(OrtCpuRunner(path)) for name, path in files.items()}
        other = stack.enter_context(OpenVino()) if openvino else None
        if other is not None:
            assert recipe.calibration is not None
            other.load("NNCF int8", files["stock fp32"], recipe.calibration.batches(), "transformer")
        names = [*files, *(["NNCF int8"] if other else [])]
        print(f"minilm, ms{f' ({other.version})' if other else ''}\n\n| sequence | {' | '.join(names)} |")
        print(f"|---|{'---|' * len(names)}")
        samples = {}
        for length in LENGTHS:
            feeds = sentence(length)
            timers: dict[str, Timer] = {name: timer(runner, feeds) for name, runner in runners.items()}
            if other is not None:
                kept = other.keep("feeds", feeds)
                timers["NNCF int8"] = partial(other.run, "NNCF int8", kept)
            samples[length] = interleaved(timers, rounds)
            cells = [f"{np.median(samples[length][name]) / 1e6:.2f}" for name in names]
            print(f"| {length} | {' | '.join(cells)} |", flush=True)
    print("\n| ratio | 8 | 32 | 128 | bar |\n|---|---|---|---|---|")
    for what, bars in BARS.items():
        own, _, peer = what.partition(" / ")
        if peer in names:
            cells = [ratio(samples[length][own], samples[length][peer]) for length in LENGTHS]
            print(f"| {what} | {' | '.join(cells)} | {' / '.join(map(str, bars))} |")
    print(flush=True)


def zoo(compiled: Mapping[str, tuple[Recipe, Exported, Artifact]], rounds: int) -> None:
    """FP32 of every model at its typical sizes, with what was predicted."""
    print("| fp32 / stock fp32 | measured | predicted by places | measured by places' whole |\n|---|---|---|---|")
    ratios = []
    for name, (_, exported, artifact) in compiled.items():
        rng = np.random.default_rng(SEED)
        feeds = seeded_feeds(Interface.of(exported.model), exported.inputs, typical_sizes(exported.dims), rng)
        with (
            OrtCpuRunner(artifact.path.parent / f"{name}.onnx") as stock,
            OrtCpuRunner(artifact.path / "fp32" / MODEL) as own,
        ):
            samples = interleaved({"stock": timer(stock, feeds), "dlc": timer(own, feeds)}, 2 * rounds)
        ratios.append(fastest(samples["dlc"], samples["stock"]).value)
        [every] = [c for c in artifact.variant("fp32").choices if c.rewrite == "all"]
        measured = ratio(samples["dlc"], samples["stock"])
        print(f"| {name} | {measured} | {every.predicted:.3f} | {every.ratio.value:.3f} |", flush=True)
    print(f"\ngeometric mean {math.prod(ratios) ** (1 / len(ratios)):.3f} (bar 0.92); "
          f"largest {max(ratios):.3f} (bar 1.02)")  # fmt: skip


def quantized_by_ort(model: ir.Model, folder: Path) -> Path:
    """ONNX Runtime's own dynamic quantization; it fails on some shapes that exporters write, so they are dropped."""
    cleared, into = model.clone(), folder / "stock-int8.onnx"
    for value in (v for node in cleared.graph for v in node.outputs if not v.is_graph_output()):
        value.shape = None
    ir.save(cleared, folder / "cleared.onnx")
    quantize_dynamic(folder / "cleared.onnx", into, per_channel=True, reduce_range=not detect().integer_dot)
    return into


def sentence(length: int) -> Feeds:
    """One sentence of so many tokens, all visible."""
    rng = np.random.default_rng(SEED)
    return {"input_ids": rng.integers(1000, 29000, (1, length)), "attention_mask": np.ones((1, length), np.int64)}


def interleaved(timers: Mapping[str, Timer], rounds: int) -> dict[str, Array]:
    """Nanoseconds of one call, [rounds] each: every model in each round, in shuffled order, on one CPU."""
    rng, names = np.random.default_rng(SEED), list(timers)
    repeats = {
        name: max(1, int(2 * SAMPLE // max(min(timer(1) for _ in range(5)), 1))) for name, timer in timers.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in names}
    with pinned():
        for _ in range(rounds):
            for name in rng.permutation(names):
                timers[name](1)  # the other models emptied the caches
                samples[name].append(timers[name](repeats[name]) / repeats[name])
    return {name: np.array(each) for name, each in samples.items()}


def ratio(own: Array, other: Array) -> str:
    estimate = fastest(own, other)
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def timer(runner: OrtCpuRunner, feeds: Feeds) -> Timer:
    def times(count: int) -> Nanoseconds:
        start = time.perf_counter_ns()
        for _ in range(count):
            runner.infer(feeds)
        return time.perf_counter_ns() - start

    return times


if __name__ == "__main__":
    main()
