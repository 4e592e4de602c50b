"""What calibration takes: peak memory as samples grow, and time against running inference on the same images.

    DLC_DATA=... python -m benchmarks.calibration [--rounds 3]

EfficientNet-Lite0, one thread, batches of 8. Memory: each line is a process of its own that calibrates by entropy.
Bars: the peak with 512 samples at most 1.05 times of that with 32; 100 images at most 2 times of inference.
CPU seconds are printed beside those of the clock: on a busy machine the clock tells of the others too.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from dlc import pipeline
from dlc.calibrate import Calibrated, measure
from dlc.calibration import Calibration, byte_size
from dlc.export import export
from dlc.models.efficientnet_lite0 import SIZE, recipe
from dlc.observe import MIB
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.fold_batch_norm import FoldBatchNorm
from dlc.passes.quantize_static import channels_to_average, tensors_to_calibrate
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.peak_rss import peak
from dlc.target import detect
from dlc.types import Feeds

BATCH = 8
SAMPLES = (32, 128, 512)
CAPS = ("1GiB", "256MiB", "96MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3, help="timed runs; the fastest counts")
    parser.add_argument("--child", nargs=3, metavar=("MODEL", "SAMPLES", "CAP"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(Path(asked.child[0]), int(asked.child[1]), byte_size(asked.child[2]))
        return
    model = graph()
    with tempfile.TemporaryDirectory() as folder:
        ir.save(model, Path(folder) / "model.onnx")
        memory(Path(folder) / "model.onnx")
    times(model, asked.rounds)


def memory(model: Path) -> None:
    print("| max_ram | samples | peak MiB | of the peak with 32 | runs over the data |\n|---|---|---|---|---|")
    for cap in CAPS:
        first = 0.0
        for samples in SAMPLES if cap == CAPS[0] else SAMPLES[:1]:
            command = [sys.executable, "-m", "benchmarks.calibration", "--child", str(model), str(samples), cap]
            mib, runs = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            first = first or float(mib)
            print(f"| {cap} | {samples} | {float(mib):.0f} | {float(mib) / first:.3f} | {runs} |", flush=True)


def child(file: Path, samples: int, cap: int) -> None:
    """Calibrate in a process that never saw torch."""
    model, rng = ir.load(file), np.random.default_rng(0)
    images = rng.uniform(-1, 1, size=(BATCH, 3, SIZE, SIZE)).astype(np.float32)

    def batches() -> Iterator[Feeds]:
        for _ in range(samples // BATCH):
            yield {"image": images * np.float32(rng.uniform(0.5, 1))}

    runs = calibrated(model, batches, Calibration(method="entropy", max_ram=cap)).runs
    print(peak() / MIB, runs)


def times(model: ir.Model, rounds: int) -> None:
    data = recipe().calibration
    if data is None or "imagenet" not in data.name:
        raise SystemExit("set DLC_DATA to a folder that holds imagenet/: 100 images are calibrated")

    def infer() -> None:
        with OrtCpuRunner(model) as runner:
            for feeds in data.batches():
                runner.run(feeds)

    works: dict[str, Callable[[], object]] = {"inference": infer}
    for method in ("minmax", "mse", "entropy", "best"):
        options = replace(Calibration(), method=method)
        works[method] = partial(calibrated, model, data.batches, options)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    infer()  # files and libraries are read
    for _, (name, work) in itertools.product(range(rounds), works.items()):
        clock, cpu = time.perf_counter(), time.process_time()
        work()
        taken[name].append((time.perf_counter() - clock, time.process_time() - cpu))
    base = [min(column) for column in zip(*taken["inference"], strict=True)]
    print("\n| 100 images | seconds | of inference | CPU seconds | of inference |\n|---|---|---|---|---|")
    for name, runs in taken.items():
        clock, cpu = (min(column) for column in zip(*runs, strict=True))
        print(f"| {name} | {clock:.2f} | {clock / base[0]:.2f} | {cpu:.2f} | {cpu / base[1]:.2f} |")


def graph() -> ir.Model:
    target = detect()
    model = export(recipe(), opset=target.opset, ir_version=target.ir_version, seed=0).model
    pipeline.run(model, [Canonicalize(), FoldBatchNorm()])
    return model


def calibrated(model: ir.Model, batches: Callable[[], Iterable[Feeds]], options: Calibration) -> Calibrated:
    return measure(model, batches, tensors_to_calibrate(model), channels_to_average(model), options=options)


if __name__ == "__main__":
    main()
