"""EfficientNet-Lite0: stock ONNX Runtime FP32 against dlc int8, one thread.

    DLC_DATA=... python benchmarks/efficientnet.py [--rounds 100]

Latency is interleaved at batch 1; ratios are of the fastest runs, with a 95 % interval. "kernels" is the time inside
integer kernels alone, from the profiler: what is left if every other node were free.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

from dlc import pipeline
from dlc.export import export
from dlc.harness.measure import latency
from dlc.harness.ratios import fastest
from dlc.models.efficientnet_lite0 import recipe
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.fold_batch_norm import FoldBatchNorm
from dlc.recipe import Dataset, Recipe
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.stages.variants import PASSES_OF
from dlc.target import Target, detect
from dlc.types import Array, Feeds

SEED = 0
INTEGER = ("QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "QGemm")
Models = dict[str, ir.Model]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=100, help="timed runs of each model")
    rounds = parser.parse_args().rounds
    declared, target = recipe(), detect()
    if declared.evaluation is None or declared.calibration is None:
        raise SystemExit("set DLC_DATA to a folder that holds imagenet/: top-1 needs labelled images")
    exported = export(declared, opset=target.opset, ir_version=target.ir_version, seed=SEED)
    models = {"fp32": exported.model, "int8": quantized(exported.model.clone(), declared, target)}
    feeds = {"image": next(iter(declared.evaluation.batches()))["image"][:1]}
    samples = times(models, feeds, rounds)
    scores = {name: logits(model, declared.evaluation) for name, model in models.items()}
    assert declared.evaluation.targets is not None
    labels = declared.evaluation.targets()
    print(
        f"{target.runtime}, {target.arch}, {'' if target.integer_dot else 'no '}integer dot product, {rounds} rounds\n"
    )
    print("| model | median ms | ratio (95 % interval) | top-1 | agreement | MB |\n|---|---|---|---|---|---|")
    for name, model in models.items():
        ratio = fastest(samples[name], samples["fp32"])
        print(
            f"| {name} | {np.median(samples[name]) / 1e6:.2f} | {ratio.value:.3f} ({ratio.low:.3f}-{ratio.high:.3f}) "
            f"| {_share(scores[name].argmax(1) == labels)} "
            f"| {_share(scores[name].argmax(1) == scores['fp32'].argmax(1))} "
            f"| {sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value) / 1e6:.2f} |"
        )
    inside = {name: kernels(model, feeds) for name, model in models.items()}
    integer = sum(inside["int8"].get(op, 0) for op in INTEGER)
    everything = sum(inside["fp32"].values())
    print(f"\nkernels: fp32 {everything / 1e3:.2f} ms; int8 integer kernels alone {integer / 1e3:.2f} ms, "
          f"{integer / everything:.3f} of fp32")  # fmt: skip
    print(", ".join(f"{op} {us / 1e3:.2f} ms" for op, us in sorted(inside["int8"].items(), key=lambda item: -item[1])))


def quantized(model: ir.Model, declared: Recipe, target: Target) -> ir.Model:
    pipeline.run(model, [Canonicalize(), FoldBatchNorm()])
    pipeline.run(model, PASSES_OF["int8"](model, declared, target))
    return model


def times(models: Models, feeds: Feeds, rounds: int) -> dict[str, Array]:
    with ExitStack() as stack:
        runners = {name: stack.enter_context(OrtCpuRunner(model)) for name, model in models.items()}
        measured = latency(runners, feeds, rounds=rounds, rng=np.random.default_rng(SEED))
    return {name: np.asarray(each) for name, each in measured.items()}


def logits(model: ir.Model, data: Dataset) -> Array:
    with OrtCpuRunner(model, SessionConfig(intra_op_threads=2)) as runner:
        return np.concatenate([runner.run(feeds)["logits"] for feeds in data.batches()])


def kernels(model: ir.Model, feeds: Feeds, runs: int = 30) -> dict[str, float]:
    """Microseconds of one run inside the kernels of each operator: the sum over nodes of their medians."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
        for _ in range(runs):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    durations: dict[tuple[str, str], list[float]] = {}
    for event in _kernel_events(events):
        durations.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"])
    total: dict[str, float] = {}
    for (op, _), each in durations.items():
        total[op] = total.get(op, 0.0) + float(np.median(each))
    return total


def _kernel_events(events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time"))


def _share(hits: Array) -> str:
    return f"{100 * hits.mean():.1f}"


if __name__ == "__main__":
    main()
