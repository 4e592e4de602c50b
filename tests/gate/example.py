"""Observations by hand: an artifact of fp32 and int8 that holds every gate."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from dlc.gate.observation import (
    DataSeen,
    Observation,
    PassSeen,
    Resident,
    Rows,
    Score,
    SliceScore,
    Slicing,
    Timing,
    VariantSeen,
)
from dlc.harness import ratios
from dlc.harness.accuracy import METRICS
from dlc.harness.statistics import metric
from dlc.manifest import Agreement, Estimate, Interfaces, Size, SourceRecord, TargetRecord
from dlc.runtimes.session import SessionConfig

EXAMPLES = 1000
TARGET = TargetRecord(
    provider="cpu", arch="x86_64", isa=("avx2",), threads=1, runtime="onnxruntime 1.32.0", opset=20, ir_version=10
)
QUIET = (0.001, -0.002, 0.001, 0.0, -0.001, 0.002, -0.001)


def timing(ratio: float, wobble: tuple[float, ...] = QUIET) -> Timing:
    logs = tuple(float(np.log(ratio)) + w for w in wobble)
    return Timing(
        logs=logs, ratio=ratios.ratio(logs, ratios.spread(QUIET)), p50_ms=ratio, p90_ms=None, p99_ms=None, calls=50,
        warm_up=40, settled=7, load_ms=5.0, first_ms=1.0,
    )  # fmt: skip


def score(wrong: int = 50, other: int = 0) -> Score:
    """Of 1,000 examples the first ``wrong`` are; ``other``: so many at the end instead."""
    hits = np.ones((EXAMPLES, 1))
    hits[: wrong - other] = 0
    hits[len(hits) - other :] = 0
    value = metric(hits, METRICS["top1"].statistic, rng=np.random.default_rng(0), resamples=50)
    return Score(metric="top1", unit="%", higher_is_better=True, value=value, rows=Rows.of(hits))


def variant(precision: str, ratio: float, **changed: Any) -> VariantSeen:
    reference = precision == "fp32"
    names = ("quantize-static",) if not reference else ("fuse-gelu",)
    plain = VariantSeen(
        precision=precision, files={"model.onnx": precision * 4}, session=SessionConfig(),
        passes=tuple(PassSeen(name=n, options={"bits": "8"}, applied=("a", "b", "c", "d")) for n in names),
        kept=(), converted={} if reference else {"Gemm": 4}, left=(), score=score(),
        agreement=None if reference else Agreement(argmax=1.0, cosine=0.9999, sqnr_db=40.0, examples=EXAMPLES),
        outputs=f"outputs of {precision}", golden=(0.0, 1e-4),
        timing=timing(ratio, (0.0,) * 7 if reference else QUIET),
        size=Size(bytes=4000 if reference else 1000, compressed_bytes=900, ratio=1.0),
        memory=Resident(peak_bytes=(60_000_000, 60_100_000, 60_200_000), runtime_bytes=50_000_000),
    )  # fmt: skip
    return msgspec.structs.replace(plain, **changed)


def observation(int8: dict[str, Any] | None = None, fp32: dict[str, Any] | None = None, **changed: Any) -> Observation:
    seen = Observation(
        model="digits", seed=0, objective="latency", concurrency=1, dims={"batch": 8},
        source=SourceRecord(kind="module", sha256="5" * 64, parity=""), target=TARGET, compiled_on=TARGET,
        measured_on=TARGET, versions={"onnxruntime": "1.32.0"}, compiled_with={"dlc": "0.1.0", "onnxruntime": "1.32.0"},
        interface=Interfaces(inputs=("x: float32[batch,8]",), outputs=("y: float32[batch,10]",)), calibration="c" * 64,
        data=DataSeen(name="test", sha256="d" * 64, examples=EXAMPLES, sizes={"batch": (40, 64)}),
        reference="fp32", reference_ms=1.0, again=QUIET, away=0.0,
        stated=Estimate(value=95.0, low=93.5, high=96.2), stated_data="d" * 64, stock_ratio=0.9, fusions=(),
        variants=(variant("fp32", 1.0, **(fp32 or {})), variant("int8", 0.4, **(int8 or {}))),
    )  # fmt: skip
    return msgspec.structs.replace(seen, **changed)


def sliced(seen: Observation, labels: np.ndarray, name: str = "site") -> Observation:
    """Cut the data of an observation by one label an example."""
    assert seen.data is not None
    return msgspec.structs.replace(
        seen, data=msgspec.structs.replace(seen.data, slicings=(Slicing.of(name, labels.astype(np.str_)),))
    )


def on_slices(seen: Observation) -> Observation:
    """Fill in every variant's top-1 on each slice, as a measurement does."""
    assert seen.data is not None
    parts = [part for slicing in seen.data.slicings for part in slicing.members()]

    def on(own: Score) -> Score:
        rows = own.rows.unpack()
        return msgspec.structs.replace(own, slices=tuple(
            SliceScore(name=name, examples=int(where.sum()), value=100 * float(rows[where].mean()))
            for name, where in parts
        ))  # fmt: skip

    return msgspec.structs.replace(seen, variants=tuple(
        msgspec.structs.replace(v, score=on(v.score)) if v.score else v for v in seen.variants
    ))  # fmt: skip
