"""Recovers accuracy: what is tried in turn, each kept only if it brings the outputs closer to FP32 beyond doubt.

Closeness is the SQNR of the outputs on the calibration data, with the real kernels of the target's provider; the data
that judges is not seen.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import onnx_ir as ir

from dlc import pipeline
from dlc.calibration import MAX_RAM
from dlc.harness.agreement import AgreementMeter
from dlc.manifest import Agreement
from dlc.moments import moments
from dlc.passes.base import Pass, clone
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.passes.quantize_static import QuantizeStatic
from dlc.passes.smooth_quant import SmoothQuant
from dlc.quantization import RECOVERIES, Recovery
from dlc.recipe import Dataset
from dlc.runtimes.opened import opened
from dlc.runtimes.session import SessionConfig
from dlc.smoothing import smoothing
from dlc.target import Provider
from dlc.types import Bytes, Floats

Form = TypeVar("Form", bound="Pass | Sequence[Pass]")
Quantizer = TypeVar("Quantizer", QuantizeDynamic, QuantizeStatic)


def dynamic(
    model: ir.Model, data: Dataset, plain: QuantizeDynamic, *, threads: int, max_ram: Bytes = MAX_RAM,
    recover: Collection[Recovery] = RECOVERIES, provider: Provider = "cpu",
) -> list[Pass]:  # fmt: skip
    """Return the passes of dynamic int8: smoothing and learned rounding, as far as they may be tried and help."""
    forms: list[list[Pass]] = [[plain]]
    if "smooth-quant" in recover:
        smooth = SmoothQuant(factors=smoothing(model, data.batches, threads=threads, max_ram=max_ram))
        forms += [[smooth, plain]] if smooth.factors else []
    *before, _ = closest(model, forms, data, threads=threads, provider=provider)
    if "learn-rounding" not in recover:
        return [*before, plain]
    return [*before, rounded(
        applied(model, before), data, plain, threads=threads, max_ram=max_ram, provider=provider
    )]  # fmt: skip


def rounded(
    model: ir.Model, data: Dataset, plain: Quantizer, *, threads: int, max_ram: Bytes = MAX_RAM,
    provider: Provider = "cpu",
) -> Quantizer:  # fmt: skip
    """Return a quantizer that learned how to round weights, if that helps."""
    seen = moments(model, data.batches, threads=threads, max_ram=max_ram)
    forms = [plain, replace(plain, learn_rounding=True, moments=seen)]
    return closest(model, forms, data, threads=threads, provider=provider)


def closest(model: ir.Model, forms: Sequence[Form], data: Dataset, *, threads: int, provider: Provider = "cpu") -> Form:
    """Return the form whose real kernels agree best with the model; a later form only if its gain is beyond doubt.

    The data is what calibrates, never what judges.
    """
    best, *others = forms
    if not others:
        return best
    known = closeness(model, best, data, threads, provider)
    for form in others:
        if (found := closeness(model, form, data, threads, provider)).beats(known):
            best, known = form, found
    return best


@dataclass(frozen=True, slots=True)
class Closeness:
    """How close outputs come to FP32: ``overall``, and ``each``, [n], the SQNR of every example in dB."""

    overall: Agreement
    each: Floats

    def beats(self, other: Closeness) -> bool:
        """Whether this is closer, by more than twice the standard error of the paired gain: 95 % of a normal."""
        if self.overall.sqnr_db <= other.overall.sqnr_db:
            return False
        gains = self.each - other.each
        return len(gains) < 2 or bool(gains.mean() > 2 * gains.std(ddof=1) / math.sqrt(len(gains)))


def closeness(
    model: ir.Model, form: Pass | Sequence[Pass], data: Dataset, threads: int, provider: Provider = "cpu"
) -> Closeness:
    """Closeness of a model's outputs after passes to those before them, batch by batch."""
    changed, meter = applied(model, form), AgreementMeter()
    config = SessionConfig(provider=provider, intra_op_threads=threads)
    with opened(model, config) as before, opened(changed, config) as after:
        for feeds in data.batches():
            batch = next((a.shape[0] for a in feeds.values() if a.ndim), 1)
            meter.add(after.run(feeds), before.run(feeds), batch=batch)
    return Closeness(meter.result(), meter.each_db())


def sqnr_db(
    model: ir.Model, form: Pass | Sequence[Pass], data: Dataset, threads: int, provider: Provider = "cpu"
) -> float:
    """SQNR of a model's outputs after passes, against those before them."""
    return closeness(model, form, data, threads, provider).overall.sqnr_db


def applied(model: ir.Model, form: Pass | Sequence[Pass]) -> ir.Model:
    """Return a copy of a model after passes."""
    changed = clone(model)
    pipeline.run(changed, [form] if isinstance(form, Pass) else form)
    return changed
