from __future__ import annotations

import time
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
from dlc.passes.cancel_transposes import CancelTransposes
from dlc.tolerance import distance, reassociation
from dlc.types import Array
from tests.passes.exported import EXPORTERS
from tests.passes.texts import compute, expected, graph, serialized, sites, text

HEAD = "g (float[n, 2, 3, 4] x) => (float[n, 2, 3, 4] y)"
PAIR = f"""{HEAD} {{
    a = Transpose<perm = [0, 2, 3, 1]>(x)
    b = Relu(a)
    y = Transpose<perm = [0, 3, 1, 2]>(b)
}}"""


def transposes(model: ir.Model) -> int:
    return sum(n.op_type == "Transpose" for n in ir.traversal.RecursiveGraphIterator(model.graph))


def agrees(body: str, feeds: dict[str, Array], header: str | None = None) -> ir.Model:
    """Run the pass twice under the pipeline's checks; the numbers stay, and a second run changes nothing."""
    model = graph(body, header) if header else graph(body)
    for i, node in enumerate(model.graph):
        node.name = f"n{i}"
    before, interface = compute(model, feeds), Interface.of(model)
    (record,) = pipeline.run(model, [CancelTransposes()])
    assert record.modified
    assert Interface.of(model) == interface
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert distance(compute(model, feeds), before)[0] <= reassociation(model)
    assert not pipeline.run(model, [CancelTransposes()])[0].modified
    return model


def feeds(*shape: int, names: str = "x") -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name in names}


def test_golden() -> None:
    model = graph(PAIR)
    [site, *_] = sites(model, CancelTransposes())
    assert site.applied
    assert text(model) == expected("y = Relu(x)")


AXES = {
    "Softmax": "b = Softmax<axis = -1>(a)",
    "ReduceMean": "m = ReduceMean(a, axes)\n b = Sub(a, m)",
    "Pad": "p = Pad(a, amounts)\n b = Slice(p, starts, ends, axes)",
    "Pad of axes": "p = Pad(a, two, , axes)\n b = Slice(p, starts, ends, axes)",
    "Slice of the first axes": "s = Slice(a, from, to)\n b = Concat<axis = 1>(s, t)\n t = Slice(a, until, from)",
    "Split": "p, q = Split<axis = 3, num_outputs = 2>(a)\n b = Concat<axis = -1>(q, p)",
    "constants": "c = Mul(a, channel)\n d = Add(c, plane)\n b = Mul(d, half)",
    "Clip": "b = Clip(a, low)",
    "Where": "c = Greater(a, channel)\n b = Where(c, a, channel)",
}
CONSTANTS = (
    "<int64[1] axes = {2}, int64[1] starts = {1}, int64[1] ends = {5}, int64[2] two = {1, 1}, "
    "int64[8] amounts = {0, 0, 1, 0, 0, 0, 1, 0}, int64[2] from = {0, 1}, int64[2] to = {9, 9}, "
    "int64[2] until = {0, 0}, float[2] channel = {0.5, 2}, float[4, 2] plane = {1, 2, 3, 4, 5, 6, 7, 8}, "
    "float half = {0.5}, float low = {0.1}>"
)


@pytest.mark.parametrize("name", [n for n in AXES if n != "Slice of the first axes"])
def test_axes_are_renamed(name: str) -> None:
    body = PAIR.replace("b = Relu(a)", AXES[name]).replace(") {", f") {CONSTANTS} {{", 1)
    model = agrees(body, feeds(5, 2, 3, 4))
    assert transposes(model) == 0


def test_slices_that_name_no_axis() -> None:
    body = PAIR.replace("b = Relu(a)", "s = Slice(a, from, to)\n t = Slice(a, zero, from)\n r = Concat<axis = 1>(t, s)"
                        "\n b = Relu(r)")  # fmt: skip
    body = body.replace(") {", ") <int64[2] zero = {0, 0}, int64[2] from = {9, 1}, int64[2] to = {9, 9}> {", 1)
    body = body.replace("Slice(a, from, to)", "Slice(a, start, to)").replace(
        "<int64", "<int64[2] start = {0, 1}, int64"
    )
    assert transposes(agrees(body, feeds(5, 2, 3, 4))) == 0


def test_two_entries_and_one_exit() -> None:
    body = PAIR.replace("float[n, 2, 3, 4] x", "float[n, 2, 3, 4] x, float[n, 2, 3, 4] z").replace(
        "b = Relu(a)", "c = Transpose<perm = [0, 2, 3, 1]>(z)\n b = Add(a, c)"
    )
    assert transposes(agrees(body, feeds(2, 2, 3, 4, names="xz"))) == 0


def test_two_entries_are_merged_into_one_behind() -> None:
    body = """g (float[n, 3] x, float[n, 3] z) => (float[3, m] y) <float[3, 3] w = {1,2,3,4,5,6,7,8,9}> {
        a = Transpose(x)
        c = Transpose(z)
        b = Add(a, c)
        y = MatMul(w, b)
    }"""
    model = agrees(body, feeds(2, 3, names="xz"))
    assert [n.op_type for n in model.graph] == ["Add", "Transpose", "MatMul"]


def test_what_leaves_is_transposed_and_a_graph_output_keeps_its_name() -> None:
    body = PAIR.replace("(float[n, 2, 3, 4] y)", "(float[n, 2, 3, 4] y, float[n, 3, 4, 2] b)")
    assert transposes(agrees(body, feeds(2, 2, 3, 4))) == 1


def test_what_enters_otherwise_is_transposed_back() -> None:
    body = PAIR.replace("float[n, 2, 3, 4] x", "float[n, 2, 3, 4] x, float[n, 3, 4, 2] z").replace(
        "b = Relu(a)", "b = Add(a, z)"
    )
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((2, 2, 3, 4)), "z": rng.standard_normal((2, 3, 4, 2))}
    assert transposes(agrees(body, {k: v.astype(np.float32) for k, v in inputs.items()})) == 1


def test_exits_of_other_orders_are_merged() -> None:
    body = PAIR.replace("float[n, 2, 3, 4] y", "float[q, w, e, r] y").replace("[0, 3, 1, 2]", "[0, 1, 3, 2]")
    assert transposes(agrees(body, feeds(2, 2, 3, 4))) == 1


def test_a_smaller_region_where_the_larger_saves_nothing() -> None:
    body = """g (float[3, 3] x, float[3, 3] z) => (float[3, 3] y, float[3, 3] v) <float[3, 3] w = {1,2,3,4,5,6,7,8,9}> {
        a = Transpose(x)
        b = Relu(a)
        y = Transpose<perm = [1, 0]>(b)
        c = Neg(z)
        d = Add(b, c)
        v = MatMul(d, w)
    }"""
    assert transposes(agrees(body, feeds(3, 3, names="xz"))) == 1


def test_an_output_that_repeats_an_input() -> None:
    body = PAIR.replace("b = Relu(a)", "").replace("(b)", "(a)")
    assert [n.op_type for n in agrees(body, feeds(2, 2, 3, 4)).graph] == ["Identity"]


GUARDS = {
    "what follows depends on the order of axes": PAIR.replace("b = Relu(a)", "b = Gather<axis = 0>(a, i)").replace(
        ") {", ") <int64[1] i = {0}> {", 1
    ),
    "no Transpose would be saved: 1 now, 1 then": PAIR.replace("y = Transpose<perm = [0, 3, 1, 2]>(b)", "y = Neg(b)")
    .replace("(float[n, 2, 3, 4] y)", "(float[n, 3, 4, 2] y)"),
    "no Transpose would be saved: 1 now, 3 then": PAIR.replace(
        "float[n, 2, 3, 4] x", "float[n, 2, 3, 4] x, float[n, 3, 4, 2] z").replace(
        "b = Relu(a)", "c = Add(a, z)\n d = Erf(c)\n e = Gather(c, i)\n b = Concat<axis = 0>(d, e)").replace(
        ") {", ") <int64[1] i = {0}> {", 1),
    "below opset 13 operators name axes in other ways": PAIR,
}  # fmt: skip


@pytest.mark.parametrize("reason", GUARDS)
def test_guard(reason: str) -> None:
    header = '<ir_version: 7, opset_import: ["" : 12]>' if "opset" in reason else None
    model = graph(GUARDS[reason], header) if header else graph(GUARDS[reason])
    before = serialized(model)
    assert reason in [s.reason for s in sites(model, CancelTransposes())]
    assert serialized(model) == before


@pytest.mark.parametrize("op", [
    "b = ReduceSum<keepdims = 0>(a, i)\n z = Unsqueeze(b, i)",
    "z = Add(a, r)",
    "z = Slice(a, i, i, j)",
])  # fmt: skip
def test_operators_that_cannot_follow(op: str) -> None:
    body = PAIR.replace("b = Relu(a)", op).replace("(b)", "(z)").replace(
        "float[n, 2, 3, 4] x", "float[n, 2, 3, 4] x, float[4, 2] r, int64[1] j"
    ).replace(") {", ") <int64[1] i = {1}> {", 1).replace("(float[n, 2, 3, 4] y)", "(float[a, b, c, d] y)")  # fmt: skip
    model = graph(body)
    reasons = [s.reason for s in sites(model, CancelTransposes())]
    assert reasons == ["what follows depends on the order of axes"] * 2


def test_a_transpose_that_leaves_and_enters_is_left() -> None:
    body = """g (float[3, 3] x) => (float[3, 3] y) {
        a = Transpose(x)
        b = Relu(a)
        c = Transpose(b)
        y = Add(a, c)
    }"""
    model = graph(body)
    rng = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)
    before = compute(model, {"x": rng})["y"]
    sites(model, CancelTransposes())
    assert np.array_equal(compute(model, {"x": rng})["y"], before)


def test_subgraphs_are_visited() -> None:
    inner = PAIR.split("{", 1)[1].rsplit("}", 1)[0]
    model = graph(f"""g (bool p, float[n, 2, 3, 4] x) => (float[n, 2, 3, 4] z) {{ z = If (p) <
        then_branch = t () => (float[n, 2, 3, 4] y) {{ {inner} }},
        else_branch = e () => (float[n, 2, 3, 4] w) {{ w = Neg(x) }}> }}""")
    assert [s.applied for s in sites(model, CancelTransposes())] == [True]
    assert transposes(model) == 0


OPS = ("Relu", "Add", "Softmax", "ReduceMax", "Concat", "Transpose", "Transpose", "Mul", "MatMul")


def random_graph(rng: np.random.Generator, count: int) -> ir.Model:
    """Nodes of all kinds on values [3, 3, 3]: every order of axes has the same shape."""
    nodes, values = [], ["x", "z"]
    arrays: dict[str, Array] = {
        "c": rng.standard_normal((3, 1)).astype(np.float32), "axes": np.array([int(rng.integers(-3, 3))]),
        "w": rng.standard_normal((3, 3)).astype(np.float32),
    }  # fmt: skip
    for i in range(count):
        op, a, b, y = rng.choice(OPS), rng.choice(values[-3:]), rng.choice(values), f"v{i}"
        axis = int(rng.integers(-3, 3))
        if op == "Transpose":
            nodes.append(
                onnx.helper.make_node(op, [a], [y], perm=rng.choice([[1, 0, 2], [2, 0, 1], [1, 2, 0]]).tolist())
            )
        elif op == "Concat":
            nodes.append(onnx.helper.make_node("Split", [a], [f"{y}p", f"{y}q", f"{y}r"], axis=axis, num_outputs=3))
            nodes.append(onnx.helper.make_node(op, [f"{y}r", f"{y}p", f"{y}q"], [y], axis=axis))
        elif op == "ReduceMax":
            nodes.append(onnx.helper.make_node(op, [a, "axes"], [f"{y}m"]))
            nodes.append(onnx.helper.make_node("Sub", [b, f"{y}m"], [y]))
        elif op == "Softmax":
            nodes.append(onnx.helper.make_node(op, [a], [y], axis=axis))
        else:
            other = {"Add": b, "Mul": "c", "MatMul": "w"}.get(str(op))
            nodes.append(onnx.helper.make_node(op, [a, other] if other else [a], [y]))
        values.append(y)
    info = onnx.helper.make_tensor_value_info
    outputs = [values[-1], *{str(v) for v in rng.choice(values[2:], 2)} - {values[-1]}]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            [*nodes], "g", [info(n, onnx.TensorProto.FLOAT, [3, 3, 3]) for n in "xz"],
            [info(n, onnx.TensorProto.FLOAT, [3, 3, 3]) for n in sorted(outputs)],
            [onnx.numpy_helper.from_array(a, n) for n, a in arrays.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10,
    )  # fmt: skip
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 30), st.integers(2, 16))
def test_properties(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    model = random_graph(rng, count)
    for i, node in enumerate(model.graph):
        node.name = f"n{i}"
    inputs = {name: rng.standard_normal((3, 3, 3)).astype(np.float32) for name in "xz"}
    before, interface, untouched, found = (
        compute(model, inputs),
        Interface.of(model),
        serialized(model),
        transposes(model),
    )
    (record,) = pipeline.run(model, [CancelTransposes()])
    assert Interface.of(model) == interface
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    applied = sum(s.applied for s in record.sites)
    assert transposes(model) <= found - applied
    assert record.modified or serialized(model) == untouched
    assert distance(compute(model, inputs), before)[0] <= reassociation(model)


def test_large_graphs_take_linear_time() -> None:
    def seconds(pairs: int) -> float:
        lines = "\n".join(
            f"a{i} = Transpose<perm = [0, 2, 3, 1]>({f'y{i - 1}' if i else 'x'})\n b{i} = Relu(a{i})\n"
            f"y{i} = Transpose<perm = [0, 3, 1, 2]>(b{i})" for i in range(pairs)
        )  # fmt: skip
        model = graph(f"{HEAD} {{ {lines}\n y = Neg(y{pairs - 1}) }}")
        for i, node in enumerate(model.graph):
            node.name = f"n{i}"
        start = time.perf_counter()
        CancelTransposes()(model)
        took = time.perf_counter() - start
        assert Counter(n.op_type for n in model.graph) == {"Relu": pairs, "Neg": 1}
        return took

    small, large = seconds(200), seconds(2000)
    assert large < 20 * max(small, 0.02)


class ChannelsLast(torch.nn.Module):
    """Convolutions whose activations are written channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Conv2d(4, 4, 3, padding=1)
        self.scale = torch.nn.Parameter(torch.linspace(0.5, 2, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x).permute(0, 2, 3, 1)
        h = torch.nn.functional.gelu(h) * self.scale + h.softmax(-1)
        out: torch.Tensor = self.second(h.permute(0, 3, 1, 2))
        return out


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_real_model(exporter: str) -> None:
    torch.manual_seed(0)
    example = torch.randn(2, 2, 5, 6)
    model = EXPORTERS[exporter](ChannelsLast().eval(), example)
    x = {"x": example.numpy()}
    before = compute(model, x)
    assert transposes(model) == 2
    assert any(s.applied for s in sites(model, CancelTransposes()))
    assert transposes(model) == 0
    assert distance(compute(model, x), before)[0] <= reassociation(model)
