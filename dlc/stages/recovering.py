"""Recovers accuracy: of several forms of a precision, the one that comes closest to FP32 on the calibration data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import onnx_ir as ir

from dlc import pipeline
from dlc.harness.agreement import AgreementMeter
from dlc.passes.base import Pass, clone
from dlc.recipe import Dataset
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig

Form = TypeVar("Form", bound=Pass)


def closest(model: ir.Model, forms: Sequence[Form], data: Dataset, *, threads: int) -> Form:
    """Return the form whose real kernels agree best with the model, by SQNR of the outputs; the first among equals.

    The data is what calibrates, never what judges.
    """
    losses = [-sqnr_db(model, form, data, threads=threads) for form in forms]
    return forms[losses.index(min(losses))]


def sqnr_db(model: ir.Model, form: Pass, data: Dataset, *, threads: int) -> float:
    """Return how far the noise that a form adds to the outputs lies below them; of the output that fares worst."""
    changed, meter = clone(model), AgreementMeter()
    pipeline.run(changed, [form])
    config = SessionConfig(intra_op_threads=threads)
    with OrtCpuRunner(model, config) as before, OrtCpuRunner(changed, config) as after:
        for feeds in data.batches():
            batch = next((a.shape[0] for a in feeds.values() if a.ndim), 1)
            meter.add(after.run(feeds), before.run(feeds), batch=batch)
    return meter.result().sqnr_db
