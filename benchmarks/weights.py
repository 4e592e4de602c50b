"""Weight-only quantization: size and task metric of MiniLM and SmolLM2 against their bars.

    DLC_DATA=... python -m benchmarks.weights [minilm] [smollm2]

Weights are quantized as ``dlc compile`` does it: how they are rounded, and what products do to activations, is chosen
on calibration data; the rewrites of a compile, which change no weight, are left out. Size is that of the weights,
against the graph as it was exported; the metric is that of the real kernels on the evaluation data. For perplexity the
bar is a ratio to FP32 in the same run.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

import dlc
from dlc.cost_table import CostTable, default_cache
from dlc.costs import Costs
from dlc.export import export
from dlc.feeds import measured_sizes
from dlc.interface import Interface
from dlc.passes.base import clone, weight_bytes
from dlc.passes.canonicalize import Canonicalize
from dlc.recipe import Recipe
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.stages.weights_only import weights_only
from dlc.target import detect


@dataclass(frozen=True, slots=True)
class Bar:
    """What must be reached. ``metric``: at least, of a metric of which more is better, else at most, against FP32."""

    bits: int
    metric: float
    size: float


BARS = {"minilm": (Bar(4, 81.6, 0.25),), "smollm2": (Bar(8, 1.01, 0.30), Bar(4, 1.05, 0.20))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", default=list(BARS), help="minilm, smollm2; default: both")
    target = detect()
    print(f"{target.runtime}, {target.arch}, {' '.join(target.isa)}, one thread\n")
    print("| model | form | metric | bar | size | bar | seconds to choose |\n|---|---|---|---|---|---|---|")
    for name in parser.parse_args().names:
        rows(name)


def rows(name: str) -> None:
    target, recipe = detect(), dlc.load_recipe(name)
    exported = export(recipe, opset=target.opset, ir_version=target.ir_version)
    model, whole = exported.model, weight_bytes(exported.model)
    Canonicalize()(model)
    assert recipe.metric is not None
    reference = score(model, recipe)
    print(f"| {name} | fp32 | {reference:.2f} | | 1 | | |", flush=True)
    costs = Costs.at(
        target, Interface.of(model), exported.inputs, measured_sizes(exported.dims), table=CostTable(default_cache())
    )
    for bar in BARS[name]:
        started = time.monotonic()
        chosen = weights_only(model, bar.bits, recipe, costs)
        seconds = time.monotonic() - started
        chosen(quantized := clone(model))
        size, value = weight_bytes(quantized) / whole, score(quantized, recipe)
        zero = "without" if chosen.symmetric else "with"
        form = f"int{bar.bits} {chosen.method}, {zero} zero points, level {chosen.accuracy_level}"
        if recipe.metric.higher_is_better:
            got, limit = f"{value:.2f}", f"at least {bar.metric}"
        else:
            got, limit = f"{value:.2f}, {value / reference:.4f}×", f"at most {bar.metric}×"
        print(f"| {name} | {form} | {got} | {limit} | {size:.3f} | at most {bar.size} | {seconds:.0f} |", flush=True)


def score(model: ir.Model, recipe: Recipe) -> float:
    data, metric, prediction = recipe.evaluation, recipe.metric, recipe.prediction
    if data is None:
        raise SystemExit("set DLC_DATA to a folder that holds stsb/ and wikitext2/: the task needs labelled data")
    assert data.targets is not None
    assert metric is not None
    assert prediction is not None
    with OrtCpuRunner(model) as runner:
        predictions = [prediction(feeds, runner.run(feeds)) for feeds in data.batches()]
    return metric.statistic(metric.rows(np.concatenate(predictions), data.targets()))


if __name__ == "__main__":
    main()
