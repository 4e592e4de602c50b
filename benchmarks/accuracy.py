"""Recovering accuracy: what each technique brings to int8, on calibration data and on the task.

    DLC_DATA=... python benchmarks/accuracy.py [minilm] [efficientnet-lite0] [--rounds 60]

Each row adds to those that were kept before it. SQNR of the outputs on calibration data decides what is kept; the
task's metric on evaluation data is only reported. The ratio is the latency of one example, interleaved, to the first
int8 row.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from dlc import pipeline
from dlc.export import export
from dlc.harness.measure import latency
from dlc.harness.ratios import fastest
from dlc.models import efficientnet_lite0, minilm
from dlc.passes.base import Pass, clone
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.fold_batch_norm import FoldBatchNorm
from dlc.passes.fuse_attention import FuseAttention
from dlc.passes.fuse_gelu import FuseGelu
from dlc.passes.fuse_layer_norm import FuseLayerNorm
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.passes.quantize_static import QuantizeStatic
from dlc.passes.unroll_grid import UnrollGrid
from dlc.recipe import Recipe
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.stages.recovering import sqnr_db
from dlc.stages.variants import PASSES_OF
from dlc.target import Target, detect
from dlc.types import Feeds

SEED = 0
RECIPES = {each.NAME: each.recipe for each in (minilm, efficientnet_lite0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--rounds", type=int, default=60, help="timed runs of each form")
    arguments = parser.parse_args()
    target = detect()
    for name in arguments.models:
        declared = RECIPES[name]()
        if declared.calibration is None or declared.evaluation is None:
            raise SystemExit("set DLC_DATA to a folder that holds imagenet/ and stsb/: the task needs labelled data")
        print(
            f"\n{name}\n\n| | SQNR, calibration, dB | metric, evaluation | latency ratio |\n|---|---|---|---|",
            flush=True,
        )
        table(declared, target, arguments.rounds)


def table(declared: Recipe, target: Target, rounds: int) -> None:
    base = rewritten(declared, target)
    print(f"| fp32 | | {metric(base, declared):.2f} | |", flush=True)
    assert declared.calibration is not None
    assert declared.evaluation is not None
    first: ir.Model | None = None
    for title, passes in forms(PASSES_OF["int8"](base, declared, target)):
        model = clone(base)
        pipeline.run(model, passes)
        first = first or model
        feeds = {k: v[:1] for k, v in next(iter(declared.evaluation.batches())).items()}
        sqnr = sqnr_db(base, passes, declared.calibration, target.threads)
        ratio = latency_ratio(model, first, feeds, rounds)
        print(f"| {title} | {sqnr:.2f} | {metric(model, declared):.2f} | {ratio} |", flush=True)


def rewritten(declared: Recipe, target: Target) -> ir.Model:
    model = export(declared, opset=target.opset, ir_version=target.ir_version, seed=SEED).model
    attention = FuseAttention(max_opset=min(target.opset, 23))
    pipeline.run(model, [Canonicalize(), FoldBatchNorm(), FuseLayerNorm(), FuseGelu(), UnrollGrid(), attention])
    return model


def forms(chosen: Sequence[Pass]) -> Iterator[tuple[str, list[Pass]]]:
    """The form that was chosen, built up from plain int8, in the order of the choices."""
    *before, last = chosen
    assert isinstance(last, QuantizeDynamic | QuantizeStatic)
    plain: QuantizeDynamic | QuantizeStatic = replace(last, learn_rounding=False)
    if isinstance(plain, QuantizeStatic):
        plain = replace(plain, correct_bias=False)
    yield "int8", [plain]
    for i, each in enumerate(before):
        yield f"+ {each.name}", [*before[: i + 1], plain]
    if isinstance(plain, QuantizeStatic) and getattr(last, "correct_bias", False):
        plain = replace(plain, correct_bias=True)
        yield "+ correct_bias", [*before, plain]
    if last.learn_rounding:
        yield "+ learn_rounding", [*before, replace(plain, learn_rounding=True)]


def latency_ratio(model: ir.Model, first: ir.Model, feeds: Feeds, rounds: int) -> str:
    rng = np.random.default_rng(SEED)
    with OrtCpuRunner(first) as one, OrtCpuRunner(model) as other:
        samples = latency({"first": one, "this": other}, feeds, rounds=rounds, rng=rng)
    ratio = fastest(samples["this"], samples["first"])
    return f"{ratio.value:.3f} ({ratio.low:.3f}-{ratio.high:.3f})"


def metric(model: ir.Model, declared: Recipe) -> float:
    data, of = declared.evaluation, declared.metric
    assert data is not None
    assert data.targets is not None
    assert of is not None
    rows = []
    with OrtCpuRunner(model) as runner:
        for feeds in data.batches():
            outputs = runner.run(feeds)
            rows.append(declared.prediction(feeds, outputs) if declared.prediction else next(iter(outputs.values())))
    return of.statistic(of.rows(np.concatenate(rows), data.targets()))


if __name__ == "__main__":
    main()
