"""Recurrent nets: stock ONNX Runtime FP32 against dlc int8, one thread.

    DLC_DATA=... python benchmarks/recurrent.py [--rounds 50] [--models resemblyzer silero-vad]

Latency is interleaved on one typical input: the eight parts of an utterance, or one chunk and its state. "stock" is
the graph as exported. The task's metric is computed over whole utterances, and over sequences with the
state fed back.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from dlc import pipeline
from dlc.export import export
from dlc.feeds import seeded_feeds, typical_sizes
from dlc.harness import ratios, statistics
from dlc.harness.accuracy import evaluate
from dlc.harness.measure import latency
from dlc.interface import Interface
from dlc.lookup import load
from dlc.models import ZOO
from dlc.passes.base import weight_bytes
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.quantize_lstm import QuantizeLstm
from dlc.recipe import Recipe
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.stages.recovering import applied
from dlc.stages.variants import PASSES_OF
from dlc.target import Target, detect

SEED = 0
ONE_THREAD = SessionConfig(intra_op_threads=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=50, help="timed runs of each model")
    parser.add_argument("--models", nargs="+", default=["resemblyzer", "silero-vad"], choices=sorted(ZOO))
    given, target = parser.parse_args(), detect()
    print(f"{target.runtime}, {target.arch}, {'' if target.integer_dot else 'no '}integer dot product\n")
    print("| model | | median ms | ratio (95 % interval) | metric | behind FP32 (95 % interval) | weights, MB |")
    print("|---|---|---|---|---|---|---|")
    for name in given.models:
        compare(load(ZOO[name])(), target, given.rounds)


def compare(recipe: Recipe, target: Target, rounds: int) -> None:
    if recipe.evaluation is None or recipe.metric is None:
        raise SystemExit(f"{recipe.name}: set DLC_DATA to a folder that holds its evaluation data")
    exported = export(recipe, opset=target.opset, ir_version=target.ir_version, seed=SEED)
    models = {"stock": exported.model, "fp32": exported.model.clone()}
    pipeline.run(models["fp32"], [Canonicalize()])
    passes = PASSES_OF["int8"](models["fp32"], recipe, target)
    models["int8"] = applied(models["fp32"], passes)
    if any(isinstance(each, QuantizeLstm) for each in passes):
        everywhere = [replace(each, inputs=True) if isinstance(each, QuantizeLstm) else each for each in passes]
        models["int8, all layers"] = applied(models["fp32"], everywhere)
    rng = np.random.default_rng(SEED)
    feeds = seeded_feeds(Interface.of(exported.model), exported.inputs, typical_sizes(exported.dims), rng)
    with ExitStack() as stack:
        runners = {name: stack.enter_context(OrtCpuRunner(model, ONE_THREAD)) for name, model in models.items()}
        samples = latency(runners, feeds, rounds=rounds, rng=rng)
        judged = {name: runner for name, runner in runners.items() if name != "stock"}
        scores = evaluate(
            judged, recipe.evaluation, reference="fp32",
            metric=recipe.metric, prediction=recipe.prediction, state=recipe.state,
        )  # fmt: skip
    for name, model in models.items():
        ratio = ratios.fastest(samples[name], samples["stock"])
        task = "| |"
        if name in scores:
            before, after = scores["fp32"].rows, scores[name].rows
            assert before is not None
            assert after is not None
            found = statistics.accuracy(
                recipe.metric.name, before, after, recipe.metric.statistic, rng=np.random.default_rng(SEED),
                higher_is_better=recipe.metric.higher_is_better,
            )  # fmt: skip
            value, drop = found.value.value, found.drop
            task = f"| {found.metric} {value:.3f} | {drop.value:.3f} ({drop.low:.3f} to {drop.high:.3f}) |"
        print(
            f"| {recipe.name} | {name} | {np.median(samples[name]) / 1e6:.2f} "
            f"| {ratio.value:.3f} ({ratio.low:.3f}-{ratio.high:.3f}) {task} {weight_bytes(model) / 1e6:.2f} |"
        )


if __name__ == "__main__":
    main()
