"""The variant mixed beside FP32 and plain int8: the search's front, then accuracy and latency on data it never saw.

    DLC_DATA=... python benchmarks/mixed.py efficientnet-lite0|minilm [--keep 0.999] [--evaluations 40] [--cache FILE]

The search runs on the calibration data; accuracy is the task's metric on the evaluation data. Latency: medians of runs
in turns, one thread, against stock ONNX Runtime on the exported graph, with a 95 % interval. ``--cache`` keeps costs
and the journal, so that a second run evaluates nothing. MiniLM's bar is NNCF's latency at length 128 as a share of
int8's built by hand, 12.4 / 11.9, see the docs; hence the last column.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from dlc import pipeline
from dlc.cost_table import CostTable
from dlc.costs import Costs
from dlc.export import export
from dlc.feeds import seeded_feeds, typical_sizes
from dlc.harness.accuracy import evaluate
from dlc.harness.measure import latency
from dlc.harness.statistics import ratio_of_medians
from dlc.interface import Interface
from dlc.lookup import load
from dlc.manifest import SearchRecord
from dlc.models import ZOO
from dlc.passes.base import Pass, clone
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.fold_batch_norm import FoldBatchNorm
from dlc.passes.fuse_attention import FuseAttention
from dlc.passes.fuse_gelu import FuseGelu
from dlc.passes.fuse_layer_norm import FuseLayerNorm
from dlc.passes.split_integer_matmul import SplitIntegerMatMul
from dlc.passes.split_residual import SplitResidual
from dlc.passes.unroll_grid import UnrollGrid
from dlc.recipe import Recipe
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.search import Mixing, Objective, megabytes
from dlc.stages.mixing import Mixed, mix
from dlc.stages.variants import PASSES_OF
from dlc.target import detect
from dlc.types import Feeds

SEED = 0
LENGTHS = (8, 32, 128)
Models = Mapping[str, ir.Model]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", choices=["efficientnet-lite0", "minilm"])
    parser.add_argument("--keep", type=float, default=0.999)
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=100, help="timed runs of each model")
    parser.add_argument("--cache", type=Path, help="file of measured costs; the journal is kept beside it")
    given = parser.parse_args()
    declared: Recipe = load(ZOO[given.model])()
    declared = replace(declared, mixed=Mixing(Objective(keep=given.keep), given.evaluations))
    target = detect()
    exported = export(declared, opset=target.opset, ir_version=target.ir_version, seed=SEED)
    sizes = typical_sizes(exported.dims)
    costs = Costs.at(
        target, Interface.of(exported.model), exported.inputs, [sizes], seed=SEED, table=CostTable(given.cache)
    )
    base = clone(exported.model)
    pipeline.run(base, fused(given.model, target.opset))
    found = mix(base, declared, costs, PASSES_OF["int8"])
    print_front(found.record)
    if found.reason:
        raise SystemExit(found.reason)
    models = {"stock fp32": exported.model, "fp32": base, **quantized(base, found)}
    points = [
        (f"{name}={size}" if name else "", seeded_feeds(Interface.of(base), exported.inputs, at, rng()))
        for name, size, at in measured_at(given.model, sizes)
    ]
    print_table(models, declared, points, given.rounds)


def fused(name: str, opset: int) -> list[Pass]:
    if name == "efficientnet-lite0":
        return [Canonicalize(), FoldBatchNorm()]
    return [
        Canonicalize(), FuseLayerNorm(), SplitResidual(), FuseGelu(), UnrollGrid(),
        FuseAttention(max_opset=min(opset, 23)),
    ]  # fmt: skip


def quantized(base: ir.Model, found: Mixed) -> Models:
    """Build plain int8 and the mix that was found."""
    *before, last = found.passes
    forms = {"int8": [*before, replace(last, exclude=())], "mixed": found.passes}  # type: ignore[call-arg]
    built = {name: clone(base) for name in forms}
    for name, passes in forms.items():
        pipeline.run(built[name], [*passes, SplitIntegerMatMul()])
    return built


def measured_at(name: str, sizes: Mapping[str, int]) -> list[tuple[str, int, Mapping[str, int]]]:
    if name == "efficientnet-lite0":
        return [("", 0, sizes)]
    return [("sequence", length, {**sizes, "sequence": length}) for length in LENGTHS]


def print_front(record: SearchRecord) -> None:
    print(f"{record.objective}: {record.evaluations} of {record.allowed} evaluations, {record.seconds:.0f} s; "
          f"{record.stopped}\n")  # fmt: skip
    print("| in FP32, of units | latency ratio | kept of held-out data, % | file |\n|---|---|---|---|")
    for each in record.front:
        chosen = " (chosen)" if each == record.chosen else " (plain int8)" if each == record.plain else ""
        left = each.excluded
        print(
            f"| {len(left)} of {record.units}{chosen} | {each.ratio.value:.3f} | {100 * each.kept.value:.3f} "
            f"[{100 * each.kept.low:.3f}, {100 * each.kept.high:.3f}] | {megabytes(each.bytes)} |"
        )
    dominated = record.plain not in record.front
    print(f"\nplain int8: {record.plain.ratio.value:.3f}, {100 * record.plain.kept.value:.3f} %; "
          f"{'the front beats it' if dominated else 'nothing measured beats it'}")  # fmt: skip
    if record.chosen:
        print(f"in FP32: {', '.join(record.chosen.excluded) or 'nothing'}\n")


def print_table(models: Models, declared: Recipe, points: Sequence[tuple[str, Feeds]], rounds: int) -> None:
    assert declared.evaluation is not None
    assert declared.metric is not None
    with ExitStack() as stack:
        runners = {n: stack.enter_context(OrtCpuRunner(m)) for n, m in models.items()}
        scored = evaluate(
            runners, declared.evaluation, reference="stock fp32", metric=declared.metric, prediction=declared.prediction
        )
        print(f"| model | {declared.metric.name} |\n|---|---|")
        for name, each in scored.items():
            assert each.rows is not None
            print(f"| {name} | {declared.metric.statistic(each.rows):.2f} |")
        print("\n| | model | median ms | of stock fp32 | of int8 |\n|---|---|---|---|---|")
        for where, feeds in points:
            samples = latency(runners, feeds, rounds=rounds, rng=rng())
            for name, own in samples.items():
                of = [ratio_of_medians(own, samples[other], rng=rng()) for other in ("stock fp32", "int8")]
                cells = " | ".join(f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in of)
                print(f"| {where} | {name} | {np.median(own) / 1e6:.2f} | {cells} |", flush=True)


def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


if __name__ == "__main__":
    main()
