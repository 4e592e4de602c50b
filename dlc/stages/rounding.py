"""How far FP32 rounding alone moves what a quantized graph answers, and with it how close a replay elsewhere can come.

A value on the boundary of two 8-bit steps falls to the other side when the FP32 arithmetic before it rounds otherwise,
as on another processor or in a browser; in a deep graph each fall moves the values of the next one. So it is measured:
the FP32 constants are moved by up to ``ULPS`` units in the last place, and the golden vectors replayed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import onnx_ir as ir

from dlc.artifact import MODEL, read_golden
from dlc.lookup import load
from dlc.manifest import GoldenTolerance, Manifest, VariantRecord
from dlc.passes.base import weight_bytes
from dlc.runtimes import RUNTIMES
from dlc.runtimes.session import INLINE_LIMIT
from dlc.stages.evidence import Subject
from dlc.tolerance import EPS32, distance

PRECISIONS = ("int8", "int4", "mixed")
ULPS = 4
"""As in ``dlc.tolerance``: what correct kernels differ by, for each term of a sum."""
LARGEST = float(np.finfo(np.float32).max)
"""What hides a masked value, in most graphs; it must not become infinite."""
DRAWS = 16
MARGIN = 2
"""The draws sample what may happen; another processor is one more draw, and may be as far on the other side."""


def widened(record: Manifest, subjects: Sequence[Subject], seed: int) -> Manifest:
    """Widen the tolerance of each quantized variant whose outputs rounding moves by more than it allows."""
    of = {subject.name: subject for subject in subjects}
    variants = tuple(_widened(v, of.get(v.precision), seed) for v in record.variants)
    return msgspec.structs.replace(record, variants=variants)


def _widened(variant: VariantRecord, subject: Subject | None, seed: int) -> VariantRecord:
    if subject is None or variant.golden is None or variant.precision not in PRECISIONS:
        return variant
    found = MARGIN * moved(subject, np.random.default_rng(seed))
    if not math.isfinite(found) or found <= variant.golden.bound:
        return variant
    reason = (
        f"{MARGIN} times what moving the FP32 constants by {ULPS} units in the last place changes, over {DRAWS} draws: "
        "values on boundaries of 8-bit steps fall to either side, and move others in the layers behind"
    )
    return msgspec.structs.replace(variant, golden=GoldenTolerance(bound=found, reason=reason))


def moved(subject: Subject, rng: np.random.Generator) -> float:
    """Return the largest distance of the golden outputs over the draws; 0 for graphs too large to hold in memory."""
    model, worst = ir.load(subject.folder / MODEL), 0.0
    if weight_bytes(model) > INLINE_LIMIT:
        return worst
    plain = {name: t.numpy() for name, v in model.graph.initializers.items() if (t := _fp32(v)) is not None}
    vectors = read_golden(subject.folder)
    for _ in range(DRAWS):
        for name, array in plain.items():
            factors = 1 + ULPS * EPS32 * rng.uniform(-1, 1, array.shape)
            near = np.clip(array * factors, -LARGEST, LARGEST, where=np.isfinite(array), out=array.astype(np.float64))
            model.graph.initializers[name].const_value = ir.Tensor(near.astype(np.float32), name=name)
        with load(RUNTIMES[subject.config.provider])(model, subject.config) as runner:
            worst = max(worst, *(distance(runner.run(feeds), stated)[0] for feeds, stated in vectors))
    return worst


def _fp32(value: ir.Value) -> ir.TensorProtocol | None:
    """Return a constant if it is of FP32; but a whole number is meant exactly: below zero, x ** 2.0000001 is NaN."""
    tensor = value.const_value
    if tensor is None or tensor.dtype != ir.DataType.FLOAT:
        return None
    return None if tensor.size == 1 and tensor.numpy().item().is_integer() else tensor
