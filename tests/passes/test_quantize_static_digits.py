"""Static quantization of a trained network, exported by torch."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from dlc import pipeline
from dlc.calibrate import calibrate
from dlc.export import export
from dlc.models.digits_cnn import recipe
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.fold_batch_norm import FoldBatchNorm
from dlc.passes.quantize_static import QuantizeStatic, tensors_to_calibrate
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.types import Array

pytest.importorskip("torch", reason="the network is a torch module")
pytest.importorskip("sklearn", reason="the scans come with scikit-learn")


@pytest.mark.parametrize("reduce_range", [True, False])
def test_every_weighted_node_is_8_bit_and_the_digits_are_still_read(reduce_range: bool) -> None:
    declared = recipe()
    assert declared.calibration is not None
    assert declared.evaluation is not None
    model = export(declared, opset=20, ir_version=10).model
    pipeline.run(model, [Canonicalize(), FoldBatchNorm()])
    before = model.clone()
    ranges = calibrate(model, declared.calibration.batches(), tensors_to_calibrate(model))
    [record] = pipeline.run(model, [QuantizeStatic(ranges=ranges, reduce_range=reduce_range)])
    assert [s.op for s in record.sites if not s.applied] == []
    assert {s.op for s in record.sites} >= {"Conv", "Add", "MaxPool", "Gemm"}

    def scores(each: ir.Model) -> Array:
        assert declared.evaluation is not None
        config = SessionConfig(graph_optimization="none")  # no kernel saturates: both range options are exact here
        with OrtCpuRunner(each, config) as runner:
            return np.concatenate([runner.run(feeds)["scores"] for feeds in declared.evaluation.batches()])

    reference, got = scores(before), scores(model)
    noise = float(((reference - got) ** 2).sum() / (reference**2).sum())
    assert (
        -10 * np.log10(noise) > 25
    )  # 6 tensors of 8 bits at about 40 dB and 6 weights at 38 dB or more, and a reserve
    assert (reference.argmax(1) == got.argmax(1)).mean() >= 0.99
