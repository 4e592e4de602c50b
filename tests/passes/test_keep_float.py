"""What was left in float computes in float, in a default session of ONNX Runtime too."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from dlc.passes.keep_float import keep_float
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.types import Array

WEIGHTS = {
    "conv": (6, 2, 3, 3), "transposed": (4, 6, 3, 3), "gemm": (16, 6), "reshaped": (16, 6), "gray": (6, 1, 3, 3),
    "some channels": (6, 4, 3, 3), "by rows": (16, 6), "sliced": (6, 4, 3, 3), "padded": (6, 4, 3, 3),
}  # fmt: skip
BODIES = {
    "conv": ("float[n, 4, 5, 5] x", "y", "y = Conv <group = 2> (d, w)"),
    "transposed": ("float[n, 4, 5, 5] x", "y", "y = ConvTranspose (d, w)"),
    "gemm": ("float[n, 16] x", "r", "y = Gemm (d, w)  r = Relu (y)"),
    "reshaped": ("float[n, 4, 2, 2] x", "y", "f = Reshape (d, rows)  y = Gemm (f, w)"),
    "gray": ("float[n, 1, 5, 5] x", "y", "y = Conv (d, w)"),
    "some channels": ("float[n, c, 5, 5] x", "y", "y = Conv (d, w)"),
    "by rows": ("float[16, n] x", "y", "y = Gemm <transA = 1> (d, w)"),
    "sliced": ("float[n, 4, 5, 5] x", "y", "s = Slice (d, first, end, axis)  y = Conv (s, w)"),
    "padded": ("float[n, 4, 5, 5] x", "y", "s = Pad (d, pads)  y = Conv (s, w)"),
}
SIZES = {
    "conv": (3, 4, 5, 5), "transposed": (3, 4, 5, 5), "gemm": (3, 16), "reshaped": (3, 4, 2, 2), "gray": (3, 1, 5, 5),
    "some channels": (3, 4, 5, 5), "by rows": (16, 3), "sliced": (3, 4, 5, 5), "padded": (3, 4, 5, 5),
}  # fmt: skip


def between_8_bits(case: str, weight: Array) -> ir.Model:
    declared, last, body = BODIES[case]
    shape = ",".join(map(str, weight.shape))
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 20]>
        g ({declared}, float[{shape}] w) => (float[] z)
        <float fine = {{0.03}}, uint8 middle = {{128}}, float coarse = {{0.25}}, int64[2] rows = {{0, -1}},
         int64[1] first = {{1}}, int64[1] end = {{5}}, int64[1] axis = {{2}},
         int64[8] pads = {{0, 0, 1, 1, 0, 0, 1, 1}}> {{
            q = QuantizeLinear (x, fine, middle)
            d = DequantizeLinear (q, fine, middle)
            {body}
            p = QuantizeLinear ({last}, coarse, middle)
            z = DequantizeLinear (p, coarse, middle)
        }}
    """)
    stored = model.graph.inputs.pop(1)
    stored.const_value = ir.tensor(weight, name="w")
    model.graph.register_initializer(stored)
    model.graph.outputs[0].shape = None
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))


def computed(model: ir.Model, x: Array, optimization: str) -> Array:
    with OrtCpuRunner(model, SessionConfig(graph_optimization=optimization)) as runner:  # type: ignore[arg-type]
        return next(iter(runner.run({"x": x}).values()))


def drawn(case: str) -> tuple[Array, Array]:
    """A weight with one large element, whose scale leaves the others next to nothing; and what it multiplies."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(WEIGHTS[case]).astype(np.float32) / 4
    weight.flat[0] = 100.0
    return weight, rng.uniform(-3, 3, SIZES[case]).astype(np.float32)


@pytest.mark.parametrize("case", [c for c in BODIES if c != "transposed"])
def test_a_default_session_quantizes_what_is_left_alone(case: str) -> None:
    """Without this there is nothing to keep: if it fails, ONNX Runtime has changed."""
    weight, x = drawn(case)
    model = between_8_bits(case, weight)
    assert np.abs(computed(model, x, "all") - computed(model, x, "none")).max() > 0.25


@pytest.mark.parametrize("case", BODIES)
def test_what_is_kept_computes_in_float(case: str) -> None:
    weight, x = drawn(case)
    model = between_8_bits(case, weight)
    expected = computed(model, x, "none")
    keep_float(model.graph)
    np.testing.assert_array_equal(computed(model, x, "none"), expected)
    # sums in another order may lie on the other side of half a level, if at all
    assert (computed(model, x, "all") != expected).mean() < 0.01
    assert sum(n.op_type == "DequantizeLinear" for n in model.graph) == 2


def test_other_readers_keep_their_one_scale() -> None:
    weight, _ = drawn("conv")
    model = between_8_bits("conv", weight)
    image = model.graph[1].outputs[0]
    other = ir.Node("", "Relu", [image], outputs=[ir.Value(name="other")])
    model.graph.append(other)
    keep_float(model.graph)
    assert other.inputs[0] is image
    assert str(model.graph[2].outputs[0].name) == "d_channels"


def test_two_nodes_share_what_both_read_and_order_holds() -> None:
    """A node late in the graph may read, through a move, what lies before the other node."""
    weight, _ = drawn("conv")
    model = between_8_bits("conv", weight)
    image, pool = model.graph[1].outputs[0], ir.Value(name="m")
    moved = ir.Node("", "Identity", [image], outputs=[pool])
    stored = model.graph.initializers["w"]
    groups = ir.convenience.convert_attributes({"group": 2})
    model.graph.insert_before(model.graph[2], moved)
    model.graph.append(ir.Node("", "Conv", [pool, stored], groups, outputs=[ir.Value(name="other")]))
    keep_float(model.graph)
    onnx.checker.check_model(ir.to_proto(model))
    assert sum(n.op_type == "DequantizeLinear" for n in model.graph) == 2


@pytest.mark.parametrize("shape", [None, ir.Shape(["n", 1, "h", "w"])])
def test_without_an_axis_known_to_be_long_nothing_changes(shape: ir.Shape | None) -> None:
    weight, _ = drawn("reshaped")
    model = between_8_bits("reshaped", weight)
    model.graph[1].outputs[0].shape = shape
    before = [n.op_type for n in model.graph]
    keep_float(model.graph)
    assert [n.op_type for n in model.graph] == before


def test_a_scale_for_each_channel_is_not_written_twice() -> None:
    weight, _ = drawn("gemm")
    model = between_8_bits("gemm", weight)
    keep_float(model.graph)
    once = len(model.graph.initializers)
    keep_float(model.graph)
    assert len(model.graph.initializers) == once
