"""Manifests as ``dlc compile`` writes them, made by hand: every status, every optional part, hostile names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from dlc.manifest import (
    SCHEMA,
    Accuracy,
    Agreement,
    Choice,
    DataRecord,
    Estimate,
    GoldenTolerance,
    Interfaces,
    KernelRecord,
    Latency,
    LayerRecord,
    Lifetime,
    Manifest,
    Memory,
    PassEntry,
    Peaks,
    Quantized,
    Reference,
    SiteRecord,
    Size,
    SourceRecord,
    Start,
    Status,
    TargetRecord,
    VariantRecord,
    VerdictRecord,
    Work,
)
from dlc.report.lifetimes import peak

HOSTILE = "<script>alert('x')</script>&\x07|`"
"""A node name that no report may pass on as it is."""


def estimate(value: float, spread: float) -> Estimate:
    return Estimate(value=value, low=value - spread, high=value + spread)


def latency(median: float, ratio: float, runs: int = 200) -> Latency:
    rng = np.random.default_rng(round(1000 * median))
    samples = median * (0.97 + rng.gamma(1.6, 0.02, runs))
    samples[:: max(runs // 3, 1)] *= 2.5
    return Latency(
        median_ms=float(np.median(samples)),
        mean_ms=float(samples.mean()),
        p10_ms=float(np.percentile(samples, 10)),
        p90_ms=float(np.percentile(samples, 90)),
        runs=runs,
        ratio=Estimate(value=ratio, low=ratio * 0.97, high=ratio * 1.04),
        samples_ms=tuple(float(s) for s in samples),
    )


def size(count: int, ratio: float) -> Size:
    return Size(bytes=count, compressed_bytes=count * 9 // 10, ratio=ratio)


def lifetimes(count: int, scale: int = 4096) -> tuple[Lifetime, ...]:
    """A chain of ``count`` tensors, each alive until its reader has run, every fourth until four steps later."""
    rng = np.random.default_rng(count)
    plan: list[Lifetime] = []
    for step in range(count):
        last = step + (6 if step % 4 == 0 else 2)
        bytes_ = scale * int(rng.integers(1, 9)) if step else 3 * scale
        alive = sorted((b for b in plan if b.last > step), key=lambda b: b.offset)
        offset = 0
        for other in alive:
            if offset + bytes_ <= other.offset:
                break
            offset = max(offset, other.offset + other.size)
        plan.append(Lifetime(name=f"/net/conv{step}/Conv_output_0", size=bytes_, offset=offset, first=step, last=last))
    return tuple(plan)


ACTIVATIONS = lifetimes(18)
SMALLER = lifetimes(40, 1024)
PLANS = {"fp32": ACTIVATIONS, "fp16": ACTIVATIONS, "int8": SMALLER, "int4": ()}


def memory(weights: int, plan: Sequence[Lifetime] = ACTIVATIONS) -> Memory:
    return Memory(
        arena_bytes=max(b.offset + b.size for b in plan), lower_bound_bytes=peak(plan)[1],
        weights_bytes=weights, dims={"batch": 8},
        peak_rss_bytes=61_865_984 + 2 * weights, runtime_rss_bytes=58_720_256,
    )  # fmt: skip


def accuracy(value: float, kept: float) -> Accuracy:
    return Accuracy(
        metric="top1", unit="%", value=estimate(value, 1.1), retention=estimate(kept, 0.0035),
        drop=estimate(98.0 - value, 0.35), examples=599,
    )  # fmt: skip


def agreement(argmax: float | None, cosine: float, sqnr_db: float) -> Agreement:
    return Agreement(argmax=argmax, cosine=cosine, sqnr_db=sqnr_db, examples=599)


def site(node: str, op: str = "Conv", reason: str | None = None, rewrite: str = "quantize-static") -> SiteRecord:
    return SiteRecord(rewrite=rewrite, node=node, op=op, reason=reason)


def entry(name: str, sites: Sequence[SiteRecord], before: int, after: int, **options: object) -> PassEntry:
    applied = sum(s.reason is None for s in sites)
    return PassEntry(
        name=name, options=options, modified=before != after or applied > 0, applied=applied,
        skipped=len(sites) - applied, nodes_before=before, nodes_after=after, sites=tuple(sites),
    )  # fmt: skip


CANONICALIZE = entry("canonicalize", [], 31, 24)
FOLD = entry(
    "fold-batch-norm",
    [site(f"bn{i}", "BatchNormalization", rewrite="fold-batch-norm") for i in range(1, 4)]
    + [site("bn4", "BatchNormalization", "convolution output has another reader", "fold-batch-norm")],
    24, 21,
)  # fmt: skip
GELU = entry(
    "fuse-gelu", [site("gelu_1", "Erf", "rolled back, 1.04x: not faster", "fuse-gelu")], 21, 21, approximate="none"
)
CHOICES = (
    Choice(rewrite="fold-batch-norm", kept=True, ratio=estimate(0.912, 0.012), reason="faster"),
    Choice(rewrite="fuse-gelu", kept=False, ratio=estimate(1.041, 0.018), reason="not faster"),
)
QUANTIZE = entry(
    "quantize-static",
    [site(f"conv{i}") for i in range(1, 5)]
    + [site("fc1", "Gemm"), site(HOSTILE, "Gemm", "output layer: <kept> in FP32")],
    21, 52, per_channel=True, reduce_range=True,
)  # fmt: skip


def variant(precision: str, status: Status, reasons: Sequence[str], **parts: object) -> VariantRecord:
    known: dict[str, object] = {
        "passes": (CANONICALIZE, FOLD, GELU), "choices": CHOICES,
        "golden": GoldenTolerance(bound=4e-6, reason="4·n·eps"),
    }  # fmt: skip
    return msgspec.convert(
        {"precision": precision, "verdict": VerdictRecord(status=status, reasons=tuple(reasons)), **known, **parts},
        VariantRecord,
    )


def quantized(*left: SiteRecord) -> Quantized:
    return Quantized(
        converted={"Conv": 4, "Gemm": 1}, left=left, weight_bytes_before=248_832, weight_bytes_after=64_512
    )


def work(float_ops: int, integer_ops: int, moved: int, *kernels: KernelRecord) -> Work:
    return Work(float_ops=float_ops, integer_ops=integer_ops, bytes=moved, kernels=kernels)


CONV = KernelRecord(node="conv2", op="Conv", microseconds=160, ops=18_000_000, bytes=320_000)
POOL = KernelRecord(node="pool", op="MaxPool", microseconds=6, ops=0, bytes=160_000)
QCONV = KernelRecord(node=HOSTILE, op="QLinearConv", microseconds=60, ops=18_000_000, bytes=75_000, integer=True)
QUICK = KernelRecord(node="fc1", op="QGemm", microseconds=4, ops=20_000, bytes=2_400, integer=True)
FLOAT_WORK = work(45_000_000, 0, 1_400_000, CONV, POOL)
INTEGER_WORK = work(0, 45_000_000, 410_000, QCONV, QUICK)
PEAKS = Peaks(float_ops=1.14e11, integer_ops=4.35e11, bytes=2.4e10, cache_bytes=9.1e10)

FP32 = variant(
    "fp32", "pass",
    ("pass: top1 98.00 keeps 100.00 % of FP32 [99.65, 100.35], at least 99 %",
     "pass: latency 0.912x of FP32 [0.885, 0.948]"),
    accuracy=accuracy(98.0, 1.0), agreement=agreement(1.0, 1.0, 138.0), latency=latency(0.412, 0.912),
    size=size(251_200, 0.981), memory=memory(248_832), work=FLOAT_WORK,
    start=Start(load_ms=11.2, first_ms=0.81),
)  # fmt: skip
FP16 = variant(
    "fp16", "inconclusive",
    ("inconclusive: top1 97.10 keeps 99.10 % of FP32 [98.75, 99.45], at least 99 %",
     "pass: smaller than FP32: size 0.502x"),
    notes=("on the CPU provider FP16 is computed in FP32: half the size, no speed",),
    accuracy=accuracy(97.1, 0.991), agreement=agreement(0.996, 0.99998, 62.4), latency=latency(0.468, 1.036),
    size=size(128_500, 0.502), memory=memory(124_416), quantized=quantized(),
)  # fmt: skip
INT8 = variant(
    "int8", "pass",
    ("pass: top1 97.83 keeps 99.83 % of FP32 [99.48, 100.18], at least 99 %",
     "pass: faster and smaller than FP32: 0.381x, 0.271x",
     "note: 12 calibration examples are evaluation examples: accuracy may flatter"),
    passes=(CANONICALIZE, FOLD, GELU, QUANTIZE),
    accuracy=accuracy(97.83, 0.9983), agreement=agreement(0.9933, 0.99931, 28.6), latency=latency(0.172, 0.381),
    size=size(69_400, 0.271), memory=memory(64_512, SMALLER), work=INTEGER_WORK,
    start=Start(load_ms=9.7, first_ms=0.42),
    quantized=quantized(site(HOSTILE, "Gemm", "output layer: <kept> in FP32")),
    layers=tuple(
        LayerRecord(value=value, node=f"node_{value}", op="Conv", sqnr_db=22.5 + 6 * i)
        for i, value in enumerate(("conv4", "conv3", HOSTILE, "conv2", "conv1"))
    ),
)  # fmt: skip
INT4 = variant(
    "int4", "fail",
    ("fail: top1 89.40 keeps 91.20 % of FP32 [90.85, 91.55], at least 99 %",
     "pass: smaller than FP32: size 0.203x"),
    accuracy=accuracy(89.4, 0.912), agreement=agreement(0.918, 0.97112, 12.1), latency=latency(0.846, 1.874),
    size=size(52_100, 0.203), memory=memory(36_864),
    quantized=quantized(*(site(f"conv{i}", "Conv", "4-bit weights of Conv have no kernel") for i in range(1, 5))),
)  # fmt: skip
BF16 = variant(
    "bf16", "not built", ("fp32 only: Conv does not load in BF16 on ONNX Runtime 1.32",), passes=(), choices=()
)

TARGET = TargetRecord(
    provider="cpu", arch="x86_64", isa=("avx2",), threads=1, runtime="onnxruntime 1.32.0", opset=20, ir_version=10,
    cpu="EPYC 7R13", cores=2, system="Linux 6.1",
)  # fmt: skip

LABELLED = Manifest(
    schema=SCHEMA, name="digits-cnn", seed=0,
    source=SourceRecord(
        kind="module", sha256="4f" * 32, parity="eager and ONNX agree: max |a-b| 2.4e-06 of 1.1e-05 allowed"
    ),
    target=TARGET,
    measured_on=TARGET,
    versions={"dlc": "0.1.0", "onnx": "1.23.2", "onnxruntime": "1.32.0", "torch": "2.13.0"},
    interface=Interfaces(inputs=("image: float32[batch,1,8,8]",), outputs=("logits: float32[batch,10]",)),
    dims={"batch": (1, 64, 8)},
    data=(
        DataRecord(role="calibration", name="digits-train", source="scikit-learn", examples=100, sha256="c1" * 32),
        DataRecord(role="evaluation", name="digits-test", source="scikit-learn", examples=599, sha256="e2" * 32),
    ),
    gates={"retention": 0.99, "cosine": 0.99, "max_latency_ratio": None, "max_size_ratio": None},
    reference=Reference(
        accuracy_runner="eager torch", metric="top1", unit="%", value=estimate(98.0, 1.1), examples=599,
        latency=latency(0.452, 1.0), again=(0.012, -0.012, 0.012), away=0.04,
        size=size(256_100, 1.0), memory=memory(248_832), work=FLOAT_WORK, start=Start(load_ms=9.92, first_ms=0.77),
    ),
    variants=(FP32, FP16, BF16, INT8, INT4),
    warnings=("12 calibration examples are also evaluation examples: the int8 accuracy may look better than it is",),
    peaks=PEAKS,
)  # fmt: skip


def _unlabelled(variant: VariantRecord) -> VariantRecord:
    assert variant.agreement is not None
    cosine = variant.agreement.cosine
    reasons = (f"pass: cosine {cosine:.5f} with FP32 on 599 examples, at least 0.99", "note: no labels")
    return msgspec.structs.replace(
        variant, accuracy=None, agreement=agreement(None, cosine, 30.0),
        verdict=VerdictRecord(status="pass", reasons=reasons),
    )  # fmt: skip


UNLABELLED = msgspec.structs.replace(
    LABELLED,
    name="minilm",
    data=(),
    dims={},
    reference=msgspec.structs.replace(LABELLED.reference, metric=None, unit="", value=None, examples=0),
    variants=(_unlabelled(FP32), _unlabelled(INT8)),
    warnings=(),
)
"""No labels, so no task metric and no classes."""

NOTHING_BUILT = msgspec.structs.replace(LABELLED, variants=(BF16,), warnings=())
NO_VARIANTS = msgspec.structs.replace(LABELLED, variants=())

EXAMPLES: Mapping[str, Manifest] = {
    "labelled": LABELLED, "unlabelled": UNLABELLED, "nothing built": NOTHING_BUILT, "no variants": NO_VARIANTS,
}  # fmt: skip


def large(
    sites: int = 500, buffers: int = 2_000, variants: int = 5
) -> tuple[Manifest, dict[str, tuple[Lifetime, ...]]]:
    """A manifest of a big model: every site has a long name, every reason occurs many times."""
    name = "/model/encoder/layers.{}/self_attention/projection_of_queries_keys_and_values/MatMul_output_quantized"
    records, plans = [], {}
    for v in range(variants):
        reasons = [None, "output has another reader", "scale is not constant", f"shape is unknown in variant {v}"]
        many = [site(name.format(i), "MatMul", reasons[i % 4]) for i in range(sites)]
        passes = tuple(entry(f"pass-{p}-{v}", many, 900, 700, bits=8) for p in range(8))
        left = quantized(*(s for s in many if s.reason))
        records.append(msgspec.structs.replace(
            INT8, precision=f"int8-{v}", passes=passes, quantized=left, latency=latency(2.0 + v, 0.3 + v / 5, 2_000)
        ))  # fmt: skip
        plans[f"int8-{v}"] = lifetimes(buffers, 512 + v)
    return msgspec.structs.replace(LABELLED, name="large", variants=tuple(records)), plans
