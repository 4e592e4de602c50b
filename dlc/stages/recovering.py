"""Recovers accuracy: what is tried in turn, each kept only if it brings the outputs closer to FP32.

Closeness is the SQNR of the outputs on the calibration data, with the real kernels; the data that judges is not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from dlc import pipeline
from dlc.calibrate import calibrate, channel_means
from dlc.harness.agreement import AgreementMeter
from dlc.moments import moments
from dlc.passes.base import Pass, clone
from dlc.passes.equalize_layers import EqualizeLayers
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.passes.quantize_static import QuantizeStatic, channels_to_average, tensors_to_calibrate
from dlc.passes.smooth_quant import SmoothQuant
from dlc.recipe import Dataset
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.smoothing import smoothing

SEED = 0
"""Draws the rows and patches that are looked at."""


def dynamic(model: ir.Model, data: Dataset, plain: QuantizeDynamic, *, threads: int) -> list[Pass]:
    """Return the passes of dynamic int8: smoothing and learned rounding, as far as they help."""
    smooth = SmoothQuant(factors=smoothing(model, data.batches(), threads=threads, rng=np.random.default_rng(SEED)))
    forms: list[list[Pass]] = [[plain], [smooth, plain]] if smooth.factors else [[plain]]
    *before, _ = closest(model, forms, data, threads=threads)
    changed = _applied(model, before)
    seen = moments(changed, data.batches(), threads=threads, rng=np.random.default_rng(SEED))
    rounded = replace(plain, learn_rounding=True, moments=seen)
    return [*before, *closest(changed, [[plain], [rounded]], data, threads=threads)]


def static(model: ir.Model, data: Dataset, *, reduce_range: bool, threads: int) -> list[Pass]:
    """Return the passes of static int8: equalisation, corrected biases and learned rounding, as far as they help."""
    equalize = EqualizeLayers()
    befores: list[list[Pass]] = [[], [equalize]] if any(why is None for _, why in equalize.survey(model)) else [[]]
    forms = [
        [*before, _plain(_applied(model, before), data, reduce_range=reduce_range, threads=threads)]
        for before in befores
    ]
    *before, plain = closest(model, forms, data, threads=threads)
    assert isinstance(plain, QuantizeStatic)
    changed = _applied(model, before)
    means = channel_means(changed, data.batches(), channels_to_average(changed), threads=threads)
    seen = moments(changed, data.batches(), threads=threads, rng=np.random.default_rng(SEED))
    for better in ({"correct_bias": True, "means": means}, {"learn_rounding": True, "moments": seen}):
        [plain] = closest(changed, [[plain], [replace(plain, **better)]], data, threads=threads)
    return [*before, plain]


def closest(model: ir.Model, forms: Sequence[Sequence[Pass]], data: Dataset, *, threads: int) -> list[Pass]:
    """Return the form whose real kernels agree best with the model, by SQNR of the outputs; the first among equals."""
    if len(forms) == 1:
        return list(forms[0])
    losses = [-sqnr_db(model, form, data, threads) for form in forms]
    return list(forms[losses.index(min(losses))])


def sqnr_db(model: ir.Model, form: Sequence[Pass], data: Dataset, threads: int) -> float:
    """SQNR of a model's outputs after passes, against those before them."""
    changed, meter = _applied(model, form), AgreementMeter()
    config = SessionConfig(intra_op_threads=threads)
    with OrtCpuRunner(model, config) as before, OrtCpuRunner(changed, config) as after:
        for feeds in data.batches():
            batch = next((a.shape[0] for a in feeds.values() if a.ndim), 1)
            meter.add(after.run(feeds), before.run(feeds), batch=batch)
    return meter.result().sqnr_db


def _plain(model: ir.Model, data: Dataset, *, reduce_range: bool, threads: int) -> QuantizeStatic:
    ranges = calibrate(model, data.batches(), tensors_to_calibrate(model), threads=threads)
    return QuantizeStatic(ranges=ranges, reduce_range=reduce_range)


def _applied(model: ir.Model, passes: Sequence[Pass]) -> ir.Model:
    changed = clone(model)
    pipeline.run(changed, passes)
    return changed
