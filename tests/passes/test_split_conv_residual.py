"""FusedConv apart again: what fuse-conv-residual writes computes the same afterwards, and can be quantized."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from dlc.passes.base import clone
from dlc.passes.fuse_conv_residual import FuseConvResidual
from dlc.passes.split_conv_residual import SplitConvResidual
from dlc.tolerance import distance, reassociation
from tests.passes.texts import compute, graph, serialized, sites

BODY = """g (float[1, 4, 9] x, float[1, 4, 9] r) => (float[1, 4, 9] y)
<float[4, 4, 3] w = {%s}, float[4] b = {0.1, -0.2, 0.3, 0.0}> {
    c = Conv <pads = [1, 1]> (x, w, b)
    s = Add (c, r)
    y = %s (s)
}"""
WEIGHT = ", ".join(f"{(i * 7 % 11 - 5) / 8}" for i in range(48))


def typed(model: ir.Model) -> ir.Model:
    """Infer the types inside, as every model has them after export."""
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu <alpha = 0.3>", "HardSigmoid <alpha = 0.3>", "Tanh", "Abs"])
def test_what_was_fused_is_apart_again(activation: str) -> None:
    model = typed(graph(BODY % (WEIGHT, activation)))
    before = [n.op_type for n in model.graph]
    rng = np.random.default_rng(0)
    feeds = {name: rng.normal(size=(1, 4, 9)).astype(np.float32) for name in "xr"}
    fused = clone(model)
    assert [s.reason for s in sites(fused, FuseConvResidual())] == [None]
    assert "FusedConv" in [n.op_type for n in fused.graph]
    assert [s.reason for s in sites(fused, SplitConvResidual())] == [None]
    assert [n.op_type for n in fused.graph] == before
    assert distance(compute(fused, feeds), compute(model, feeds))[0] <= reassociation(model)


def test_an_activation_that_is_not_known_stays() -> None:
    model = graph(
        'g (float[1, 4, 9] x, float[4, 4, 3] w) => (float[1, 4, 7] y) {'
        ' y = com.microsoft.FusedConv <activation = "Clip", activation_params = [0.0, 6.0]> (x, w) }',
        '<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]>',
    )  # fmt: skip
    before = serialized(model)
    [site] = sites(model, SplitConvResidual())
    assert site.reason == "no operator is known for the activation 'Clip'"
    assert serialized(model) == before


def test_a_graph_without_any_is_left_alone() -> None:
    model = graph(BODY % (WEIGHT, "Relu"))
    before = serialized(model)
    assert sites(model, SplitConvResidual()) == ()
    assert serialized(model) == before
