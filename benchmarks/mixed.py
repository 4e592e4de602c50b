"""The variants int8 and mixed beside FP32 and OpenVINO with NNCF: the search's front, accuracy, latency.

    DLC_DATA=... python -m benchmarks.mixed efficientnet-lite0|minilm [--keep 0.999] [--evaluations 40] [--no-openvino]

dlc compiles as ``dlc compile`` does; the search runs on the calibration data, which is NNCF's too, and accuracy is the
task's metric on the evaluation data. Every model runs from its file in a plain session, in turns, one thread;
ratios are of the fastest runs, with 95 % intervals. OpenVINO and NNCF run in an environment and a process of their own.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

import dlc
from benchmarks.peers import OpenVino
from benchmarks.rewriting import Timer, interleaved, ratio, timer
from dlc.artifact import MODEL, Artifact
from dlc.export import export
from dlc.feeds import seeded_feeds, typical_sizes
from dlc.interface import Interface
from dlc.manifest import SearchRecord
from dlc.recipe import Recipe
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.search import Mixing, Objective, megabytes
from dlc.target import Target, detect
from dlc.types import Array, Feeds, Outputs

SEED = 0
KINDS = {"efficientnet-lite0": None, "minilm": "transformer"}
"""What NNCF is told of a model."""
LENGTHS = (8, 32, 128)
Infer = Callable[[Feeds], Outputs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", choices=list(KINDS))
    parser.add_argument("--keep", type=float, default=0.999)
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=60, help="timed runs of each model")
    parser.add_argument("--no-openvino", action="store_true", help="leave out OpenVINO and NNCF")
    given = parser.parse_args()
    declared = dlc.load_recipe(given.model)
    calibration = declared.calibration
    if declared.evaluation is None or calibration is None:
        raise SystemExit("set DLC_DATA to a folder that holds imagenet/ and stsb/: the task needs labelled data")
    declared = replace(declared, mixed=Mixing(Objective(keep=given.keep), given.evaluations))
    target = detect()
    print(f"{target.runtime}, {target.arch}, {' '.join(target.isa)}, one thread\n")
    with tempfile.TemporaryDirectory(prefix="dlc-mixed-") as folder, ExitStack() as stack:
        artifact = compile_(declared, target, Path(folder))
        files = {"stock fp32": stock(declared, target, Path(folder))}
        for variant in artifact.manifest.variants:
            if (path := artifact.path / variant.precision / MODEL).exists():
                files[f"dlc {variant.precision}"] = path
            if variant.search is not None:
                print_front(variant.search)
        other = None if given.no_openvino else stack.enter_context(OpenVino())
        if other is not None:
            other.load("NNCF int8", files["stock fp32"], calibration.batches(), KINDS[given.model])
        runners = {name: stack.enter_context(OrtCpuRunner(path)) for name, path in files.items()}
        print_table(declared, runners, other, given.rounds)


def compile_(declared: Recipe, target: Target, folder: Path) -> Artifact:
    options = dlc.Options(variants=("fp32", "int8", "mixed"), evaluate=False)
    return dlc.compile(declared, target, folder, options).artifact


def stock(declared: Recipe, target: Target, folder: Path) -> Path:
    """Write the graph as it was exported."""
    exported = export(declared, opset=target.opset, ir_version=target.ir_version, seed=SEED)
    ir.save(exported.model, folder / "stock.onnx")
    return folder / "stock.onnx"


def print_front(record: SearchRecord) -> None:
    print(f"{record.objective}: {record.evaluations} of {record.allowed} evaluations, {record.seconds:.0f} s; "
          f"{record.stopped}\n")  # fmt: skip
    print("| in FP32, of units | latency ratio | kept of held-out data, % | file |\n|---|---|---|---|")
    for each in record.front:
        chosen = " (chosen)" if each == record.chosen else " (plain int8)" if each == record.plain else ""
        print(
            f"| {len(each.excluded)} of {record.units}{chosen} | {each.ratio.value:.3f} | {100 * each.kept.value:.3f} "
            f"[{100 * each.kept.low:.3f}, {100 * each.kept.high:.3f}] | {megabytes(each.bytes)} |"
        )
    dominated = record.plain not in record.front
    print(f"\nplain int8: {record.plain.ratio.value:.3f}, {100 * record.plain.kept.value:.3f} %; "
          f"{'the front beats it' if dominated else 'nothing measured beats it'}\n", flush=True)  # fmt: skip


def print_table(declared: Recipe, runners: Mapping[str, OrtCpuRunner], other: OpenVino | None, rounds: int) -> None:
    """Accuracy of every model, then its latency against stock and against NNCF at each size."""
    assert declared.metric is not None
    infer: dict[str, Infer] = {name: runner.infer for name, runner in runners.items()}
    if other is not None:
        infer["NNCF int8"] = partial(of_nncf, other, [t.name for t in runners["stock fp32"].interface.outputs])
    print(f"| model | {declared.metric.name} |\n|---|---|")
    for name, run in infer.items():
        print(f"| {name} | {score(declared, run):.2f} |", flush=True)
    print(f"\n| | model | median ms | of stock fp32 |{' of NNCF int8 |' if other else ''}\n|---|---|---|---|"
          f"{'---|' if other else ''}")  # fmt: skip
    for where, feeds in points(declared, runners["stock fp32"].interface):
        timers: dict[str, Timer] = {name: timer(runner, feeds) for name, runner in runners.items()}
        if other is not None:
            kept = other.keep("feeds", feeds)
            timers["NNCF int8"] = partial(other.run, "NNCF int8", kept)
        samples = interleaved(timers, rounds)
        for name, own in samples.items():
            peers = ["stock fp32", *(["NNCF int8"] if other else [])]
            cells = " | ".join(ratio(own, samples[peer]) for peer in peers)
            print(f"| {where} | {name} | {np.median(own) / 1e6:.2f} | {cells} |", flush=True)


def of_nncf(other: OpenVino, names: Sequence[str], feeds: Feeds) -> Outputs:
    return dict(zip(names, other.outputs("NNCF int8", other.keep("batch", feeds)), strict=True))


def score(declared: Recipe, infer: Infer) -> float:
    """Return the task's metric on the evaluation data."""
    data, metric, rows = declared.evaluation, declared.metric, list[Array]()
    assert data is not None
    assert data.targets is not None
    assert metric is not None
    for feeds in data.batches():
        outputs = infer(feeds)
        rows.append(declared.prediction(feeds, outputs) if declared.prediction else next(iter(outputs.values())))
    return metric.statistic(metric.rows(np.concatenate(rows), data.targets()))


def points(declared: Recipe, interface: Interface) -> list[tuple[str, Feeds]]:
    """Where latency is measured: at the typical sizes; three lengths where there is a sequence."""
    sizes = typical_sizes(declared.dims)
    at = [{"sequence": n} for n in LENGTHS] if "sequence" in sizes else [{}]
    rng = np.random.default_rng(SEED)
    return [
        (
            ", ".join(f"{k}={v}" for k, v in each.items()),
            seeded_feeds(interface, declared.inputs, {**sizes, **each}, rng),
        )
        for each in at
    ]


if __name__ == "__main__":
    main()
