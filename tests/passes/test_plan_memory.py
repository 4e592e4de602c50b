from __future__ import annotations

import time

import numpy as np
import onnx_ir as ir
import pytest

from dlc.errors import PassError, Unsupported
from dlc.export import export
from dlc.models import digits_cnn
from dlc.passes import plan_memory
from dlc.passes.concrete_shapes import infer_types
from dlc.passes.offsets import Placement
from dlc.passes.plan_memory import Buffer, infer_shapes, live_bytes, plan
from tests.passes.texts import serialized
from tests.passes.weights import WITH_CONTRIB, weighted

CHAIN = """g (float[n, 4] x, float[4, 8] w) => (float[n, 8] y) {
    a = MatMul(x, w) b = Relu(a) c = Exp(a) d = Add(b, c) y = Neg(d)
}"""
W = {"w": np.ones((4, 8), np.float32)}


def test_lifetimes() -> None:
    planned = plan(weighted(CHAIN, W), {"n": 3})
    assert planned.buffers == (
        Buffer("a", 96, 0, 3), Buffer("b", 96, 1, 4), Buffer("c", 96, 2, 4), Buffer("d", 96, 3, 5),
    )  # fmt: skip
    assert planned.order == ("node_a", "node_b", "node_c", "node_d", "node_y")
    assert planned.lower_bound == 3 * 128
    assert planned.arena == planned.lower_bound
    assert planned.dims == {"n": 3}
    assert live_bytes(planned.buffers, 5) == [128, 256, 384, 384, 128]


def test_inputs_weights_and_outputs_are_not_planned() -> None:
    names = {b.name for b in plan(weighted(CHAIN, W), {"n": 3}).buffers}
    assert names.isdisjoint({"x", "w", "y"})


def test_reshapes_share_the_buffer_of_what_they_reshape() -> None:
    body = """g (float[n, 4] x, int64[1] s) => (float[m] y) {
        r = Relu(x) f = Reshape(r, s) i = Identity(f) e = Exp(i) y = Neg(e)
    }"""
    model = weighted(body, {"s": np.array([-1])})
    assert plan(model, {"n": 16}).buffers == (Buffer("r", 256, 0, 4), Buffer("e", 256, 3, 5))
    assert [b.name for b in plan(model, {"n": 16}, alias=False).buffers] == ["r", "f", "i", "e"]


def test_a_reshaped_input_is_no_buffer() -> None:
    body = "g (float[n, 4] x, int64[1] s) => (float[m] y) { r = Reshape(x, s) y = Relu(r) }"
    assert plan(weighted(body, {"s": np.array([-1])}), {"n": 16}).buffers == ()


def test_an_output_that_is_read_again_and_one_that_nobody_reads() -> None:
    """ONNX Runtime lets go of what nobody reads when the run ends."""
    body = "g (float[8] x) => (float[8] y, float[8] z) { y = Relu(x) unread = Exp(x) z = Exp(y) }"
    assert plan(weighted(body, {}), {}).buffers == (Buffer("unread", 32, 1, 3),)


def test_subgraphs_read_what_they_capture() -> None:
    body = """g (bool c, float[8] x) => (float[8] y) {
        h = Relu(x) o = Exp(x)
        i = If(c) <then_branch = t () => (float[8] a) { a = Neg(h) }, else_branch = e () => (float[8] b) { b = Neg(o) }>
        y = Neg(i)
    }"""
    model = weighted(body, {})
    assert {(b.name, b.first, b.last) for b in plan(model, {}).buffers} == {("h", 0, 3), ("o", 1, 3), ("i", 2, 4)}


def test_int4_tensors_take_half_a_byte() -> None:
    body = """g (float[9] x, float s) => (float[9] y) {
        q = QuantizeLinear<output_dtype = 22>(x, s) y = DequantizeLinear(q, s)
    }"""
    model = weighted(body, {"s": np.array(1, np.float32)}, '<ir_version: 10, opset_import: ["" : 21]>')
    assert plan(model, {}).buffers == (Buffer("q", 5, 0, 2),)


def test_symbolic_expressions_and_inference() -> None:
    body = "g (float[n, 4] x) => (float[m, 4] y) { a = com.microsoft.Mystery(x) b = Relu(a) y = Neg(b) }"
    model = weighted(body, {}, WITH_CONTRIB)
    model.graph.node("node_a").outputs[0].shape = ir.Shape([ir.SymbolicDim("2*n + 1"), 4])
    model.graph.node("node_a").outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    shapes = infer_shapes(model, {"n": 3})
    assert (shapes["a"], shapes["b"], shapes["x"]) == ((7, 4), (7, 4), (3, 4))


def test_unknown_sizes_are_left_out() -> None:
    assert "x" not in infer_shapes(weighted(CHAIN, W), {})


def test_a_shape_that_depends_on_values_is_measured() -> None:
    body = "g (float[n] x) => (int64[1, m] y) { z = NonZero(x) y = Neg(z) }"
    assert plan(weighted(body, {}), {"n": 5}).buffers == (Buffer("z", 40, 0, 2),)


def test_a_contrib_operator_without_shape_is_measured() -> None:
    body = """g (float[n, 4] x, float[4, 8] w) => (float[n, 8] y) {
        a = com.microsoft.FusedMatMul(x, w) b = Cast<to = 1>(a) y = Relu(b)
    }"""
    model = weighted(body, W, WITH_CONTRIB)
    model.graph.node("node_a").outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    before = serialized(model)
    assert plan(model, {"n": 3}).buffers == (Buffer("a", 96, 0, 2), Buffer("b", 96, 1, 3))
    assert serialized(model) == before


def test_a_missing_size_names_the_dimension() -> None:
    with pytest.raises(Unsupported, match="dimension 'n'"):
        plan(weighted(CHAIN, W), {})


def test_a_shape_that_cannot_be_measured_names_the_tensor() -> None:
    body = "g (float[n] x) => (float[m] y) { z = com.unknown.Mystery(x) y = Neg(z) }"
    header = '<ir_version: 10, opset_import: ["" : 20, "com.unknown" : 1]>'
    with pytest.raises(Unsupported, match="tensor 'z'"):
        plan(weighted(body, {}, header), {"n": 3})


def test_a_tensor_without_a_size_is_named() -> None:
    body = "g (float[n] x) => (float[n] y) { s = Cast<to = 8>(x) y = Cast<to = 1>(s) }"
    with pytest.raises(Unsupported, match="tensor 's'"):
        plan(weighted(body, {}), {"n": 3})


def test_a_wrong_plan_is_our_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_memory, "pack", lambda some: Placement({b.name: 0 for b in some}, 96, "wrong"))
    with pytest.raises(PassError, match="a and b share bytes"):
        plan(weighted(CHAIN, W), {"n": 3})


def test_types_are_inferred_where_the_graph_has_none() -> None:
    model = weighted(CHAIN, W)
    assert {v.name: t.name for v, t in infer_types(model).items()} == dict.fromkeys("abcd", "FLOAT")


def test_digits_cnn_reaches_the_bound() -> None:
    model = export(digits_cnn.recipe(), opset=20, ir_version=10).model
    one, many = plan(model, {"batch": 1}), plan(model, {"batch": 64})
    assert one.arena == one.lower_bound
    assert many.arena == many.lower_bound == 64 * one.arena


def test_ten_thousand_nodes() -> None:
    value = x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", 64]))
    nodes: list[ir.Node] = []
    for i in range(10_000):
        skip = nodes[-7].outputs[0] if i % 5 == 0 and i > 7 else value
        out = ir.Value(name=f"v{i}", type=value.type, shape=value.shape)
        nodes.append(ir.Node("", "Add", [value, skip], outputs=[out], name=f"node_{i}"))
        value = out
    graph = ir.Graph([x], [value], nodes=nodes, opset_imports={"": 20}, name="g")
    start = time.process_time()
    planned = plan(ir.Model(graph, ir_version=10), {"n": 8})
    assert time.process_time() - start < 20
    assert len(planned.buffers) == 9_999
    assert planned.arena == planned.lower_bound
