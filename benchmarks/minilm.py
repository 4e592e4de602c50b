"""MiniLM: stock ONNX Runtime, FP32 and dynamically quantized, against dlc fp32 and int8, one thread.

    DLC_DATA=... python benchmarks/minilm.py [--rounds 60] [--no-spearman]

All models of a row are timed interleaved, one sentence at a time, loaded by a plain session with all optimisations; the
number behind each time is its ratio to the first column with a 95 % interval. "GEMM" is the time of the integer
products alone, from the profiler: what int8 would take if every other node were free. Spearman: STS-B test, x100.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnxruntime.quantization import quantize_dynamic

from dlc import pipeline
from dlc.export import export
from dlc.harness.measure import latency
from dlc.harness.statistics import ratio_of_medians
from dlc.models.minilm import recipe
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.fuse_attention import FuseAttention
from dlc.passes.fuse_gelu import FuseGelu
from dlc.passes.fuse_layer_norm import FuseLayerNorm
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.passes.split_residual import SplitResidual
from dlc.passes.unpack_integer_products import UnpackIntegerProducts
from dlc.passes.unroll_grid import UnrollGrid
from dlc.recipe import Recipe
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.target import Target, detect
from dlc.types import Feeds

SEED = 0
LENGTHS = (8, 32, 128)
PRODUCTS = ("DynamicQuantizeMatMul", "MatMulIntegerToFloat")
Models = dict[str, ir.Model | Path]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=60, help="timed runs of each model at sequence length 32")
    parser.add_argument("--no-spearman", action="store_true", help="time only")
    arguments = parser.parse_args()
    declared, target = recipe(), detect()
    with tempfile.TemporaryDirectory() as folder:
        models = build(declared, target, Path(folder))
        dot = "" if target.integer_dot else "no "
        print(f"{target.runtime}, {target.arch}, {dot}integer dot product, one thread\n")
        print(f"| | {' | '.join(models)} | int8 GEMM |\n|---|{'---|' * (len(models) + 1)}")
        for length in LENGTHS:
            row = times(models, sentence(length), max(10, arguments.rounds * 32 // length))
            print(
                f"| sequence {length}, ms | {row} | {products(models['dlc int8'], sentence(length)):.2f} |", flush=True
            )
        if declared.evaluation is not None and not arguments.no_spearman:
            print(f"| Spearman | {' | '.join(f'{spearman(m, declared):.2f}' for m in models.values())} | |")
        sizes = " | ".join(f"{size(m, Path(folder)) / 1e6:.1f}" for m in models.values())
        print(f"| file, MB | {sizes} | |")


def build(declared: Recipe, target: Target, folder: Path) -> Models:
    """Export once; everything starts from that graph."""
    exported = export(declared, opset=target.opset, ir_version=target.ir_version, seed=SEED).model
    stock = exported.clone()
    ir.save(cleared(stock.clone()), folder / "stock.onnx")
    quantize_dynamic(folder / "stock.onnx", folder / "stock-int8.onnx", per_channel=True,
                     reduce_range=not target.integer_dot)  # fmt: skip
    attention = FuseAttention(max_opset=min(target.opset, 23))
    fuse = [Canonicalize(), FuseLayerNorm(), SplitResidual(), FuseGelu(), UnrollGrid(), attention]
    fp32, int8 = exported.clone(), exported
    pipeline.run(fp32, fuse)
    pipeline.run(int8, [*fuse, QuantizeDynamic(reduce_range=not target.integer_dot), UnpackIntegerProducts()])
    return {"ORT fp32": stock, "ORT quantize_dynamic": folder / "stock-int8.onnx", "dlc fp32": fp32, "dlc int8": int8}


def cleared(model: ir.Model) -> ir.Model:
    """Forget the shapes in between: quantize_dynamic fails on some that exporters write."""
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    return model


def sentence(length: int) -> Feeds:
    rng = np.random.default_rng(SEED)
    return {"input_ids": rng.integers(1000, 29000, (1, length)), "attention_mask": np.ones((1, length), np.int64)}


def times(models: Models, feeds: Feeds, rounds: int) -> str:
    rng = np.random.default_rng(SEED)
    with ExitStack() as stack:
        runners = {n: stack.enter_context(OrtCpuRunner(m, SessionConfig())) for n, m in models.items()}
        samples = latency(runners, feeds, rounds=rounds, rng=rng)
    first = next(iter(samples.values()))
    cells = []
    for each in samples.values():
        ratio = ratio_of_medians(each, first, rng=rng)
        interval = "" if each is first else f" ({ratio.value:.3f}, {ratio.low:.3f}-{ratio.high:.3f})"
        cells.append(f"{np.median(each) / 1e6:.2f}{interval}")
    return " | ".join(cells)


def products(model: ir.Model | Path, feeds: Feeds, runs: int = 30) -> float:
    """Milliseconds a run inside the integer products, from the profiler."""
    assert isinstance(model, ir.Model)
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.enable_profiling = 1, True
        options.profile_file_prefix = str(Path(folder) / "profile")
        data = ir.serde.serialize_model(model).SerializeToString()
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        for _ in range(runs):
            session.run(None, dict(feeds))
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    return sum(e["dur"] for e in nodes if e["args"]["op_name"] in PRODUCTS) / runs / 1e3


def spearman(model: ir.Model | Path, declared: Recipe) -> float:
    data, metric, prediction = declared.evaluation, declared.metric, declared.prediction
    assert data is not None
    assert data.targets is not None
    assert metric is not None
    assert prediction is not None
    with OrtCpuRunner(model) as runner:
        predictions = [prediction(feeds, runner.run(feeds)) for feeds in data.batches()]
    return metric.statistic(metric.rows(np.concatenate(predictions), data.targets()))


def size(model: ir.Model | Path, folder: Path) -> int:
    if isinstance(model, Path):
        return model.stat().st_size
    ir.save(model, folder / "size.onnx")
    return (folder / "size.onnx").stat().st_size


if __name__ == "__main__":
    main()
