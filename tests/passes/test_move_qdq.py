from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.interface import Interface
from dlc.passes.move_qdq import MoveQdq
from dlc.types import Array
from tests.passes.exported import EXPORTERS
from tests.passes.quantized import seeded, statically
from tests.passes.texts import HEADER, compute, expected, graph, serialized, sites, text

LEVELS = "<float s = {0.1}, uint8 z = {100}, float t = {0.2}, int64[3] cube = {1, -1, 4}, int64[2] flat = {-1, 4}>"
SINK = f"""g (uint8[n, 4] q) => (float[4, n] y) {LEVELS} {{
    d = DequantizeLinear(q, s, z)
    m = Transpose<perm = [1, 0]>(d)
    y = Relu(m)
}}"""
HOIST = f"""g (float[n, 4] x) => (uint8[4, n] y) {LEVELS} {{
    r = Relu(x)
    m = Transpose<perm = [1, 0]>(r)
    y = QuantizeLinear(m, s, z)
}}"""
UNIT = f"""g (uint8[n, 4] q, uint8[n, 4] p) => (uint8[k, 4] y) {LEVELS} {{
    d = DequantizeLinear(q, s, z)
    e = DequantizeLinear(p, s, z)
    m = Concat<axis = 0>(d, e)
    y = QuantizeLinear(m, s, z)
}}"""
PAIR = f"""g (uint8[n, 4] q) => (uint8[n, 4] y) {LEVELS} {{
    h = Identity(q)
    d = DequantizeLinear(h, s, z)
    y = QuantizeLinear(d, s, z)
}}"""
X = np.random.default_rng(0).uniform(-20, 20, (3, 4)).astype(np.float32)
Q = np.array([[0, 1, 2, 3], [99, 100, 101, 127], [128, 253, 254, 255]], np.uint8)
FEEDS: dict[str, Array] = {"x": X, "q": Q, "p": Q[::-1].copy()}


def moves(body: str, header: str = HEADER) -> ir.Model:
    """Run the pass until it changes nothing: the interface and all numbers stay."""
    model = graph(body, header)
    feeds = {str(v.name): FEEDS[str(v.name)] for v in model.graph.inputs}
    before, interface = compute(model, feeds), Interface.of(model)
    (record,) = pipeline.run(model, [MoveQdq()])
    assert record.modified
    assert Interface.of(model) == interface
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    after = compute(model, feeds)
    assert all(np.array_equal(after[k], before[k]) for k in before)
    assert not pipeline.run(model, [MoveQdq()])[0].modified
    return model


def operators(model: ir.Model) -> list[str]:
    return [n.op_type for n in model.graph]


def test_golden_sink() -> None:
    nodes = text(moves(SINK)).splitlines()
    assert (
        nodes[:3]
        == expected("""
        m.levels = Transpose(q)
        m = DequantizeLinear(m.levels, s, z)
        y = Relu(m)""").splitlines()
    )


def test_golden_hoist() -> None:
    nodes = text(moves(HOIST)).splitlines()
    assert (
        nodes[:3]
        == expected("""
        r = Relu(x)
        y.before = QuantizeLinear(r, s, z)
        y = Transpose(y.before)""").splitlines()
    )


def test_golden_unit() -> None:
    assert text(moves(UNIT)).splitlines()[0] == "y = Concat(q, p)"


def test_golden_pair() -> None:
    assert text(moves(PAIR)).splitlines()[0] == "y = Identity(q)"


def test_a_pair_that_repeats_an_input() -> None:
    assert operators(moves(PAIR.replace("h = Identity(q)", "").replace("(h, s", "(q, s"))) == ["Identity"]


SINKS = {
    "Slice": "m = Slice(d, one, two)", "Expand": "m = Expand(d, three)", "Gather": "m = Gather(d, one)",
    "Reshape": "m = Reshape(d, cube)", "Tile": "m = Tile(d, pair)", "Unsqueeze": "m = Unsqueeze(d, one)",
    "MaxPool": "c = Reshape(d, cube)\n m = MaxPool<kernel_shape = [3], pads = [1, 1]>(c)",
    "chain": "c = Reshape(d, cube)\n b = Transpose<perm = [2, 0, 1]>(c)\n m = Squeeze(b, one)",
    "Split": "a, b = Split<axis = 1, num_outputs = 2>(d)\n m = Mul(a, b)",
    "one of two readers": "m = Transpose<perm = [1, 0]>(d)\n v = Relu(d)",
}  # fmt: skip
CONSTANTS = "int64[1] one = {1}, int64[1] two = {2}, int64[2] pair = {2, 3}, int64[3] three = {2, 3, 4}, float s"


@pytest.mark.parametrize("name", SINKS)
def test_sinks(name: str) -> None:
    body = SINK.replace("m = Transpose<perm = [1, 0]>(d)", SINKS[name]).replace("<float s", f"<{CONSTANTS}")
    declared = {
        "Slice": "float[a, 4] y",
        "chain": "float[4, n] y",
        "one of two readers": "float[4, n] y, float[n, 4] v",
        "Expand": "float[2, 3, 4] y",
        "Gather": "float[1, 4] y",
        "Tile": "float[a, 12] y",
        "Split": "float[n, 2] y",
    }
    body = body.replace("float[4, n] y", declared.get(name, "float[a, b, c] y"))
    found = operators(moves(body))
    assert found[0] == "DequantizeLinear" if name == "one of two readers" else found[0] != "DequantizeLinear"
    assert found.count("DequantizeLinear") == (2 if name in ("Split", "one of two readers") else 1)


@pytest.mark.parametrize("name", ["Slice", "Expand", "Reshape", "Tile"])
def test_hoists(name: str) -> None:
    body = HOIST.replace("m = Transpose<perm = [1, 0]>(r)", SINKS[name].replace("(d,", "(r,")).replace(
        "<float s", f"<{CONSTANTS}")  # fmt: skip
    declared = {"Slice": "[a, 4]", "Expand": "[2, 3, 4]", "Tile": "[a, 12]"}
    body = body.replace("uint8[4, n] y", f"uint8{declared.get(name, '[a, b, c]')} y")
    assert operators(moves(body)) == ["Relu", "QuantizeLinear", name]


def test_each_reader_that_is_no_unit_reads_floats() -> None:
    body = UNIT.replace("(uint8[k, 4] y)", "(uint8[k, 4] y, float[k, 4] v, float[k, 4] m)").replace(
        "y = Q", "v = Neg(m)\n y = Q")  # fmt: skip
    assert Counter(operators(moves(body))) == {"Concat": 1, "DequantizeLinear": 1, "Neg": 1}


def test_an_axis_that_one_scale_does_not_have_is_left_out() -> None:
    body = HOIST.replace("Transpose<perm = [1, 0]>(r)", "Reshape(r, cube)").replace("uint8[4, n] y", "uint8[a, b, c] y")
    model = moves(body.replace("QuantizeLinear(m", "QuantizeLinear<axis = 2>(m"))
    assert operators(model) == ["Relu", "QuantizeLinear", "Reshape"]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_types_without_a_zero_point(dtype: str) -> None:
    output = "<output_dtype = 3>" if dtype == "int8" else ""
    body = (
        PAIR.replace(", s, z)", ", s)")
        .replace("h = Identity(q)", "")
        .replace("(h, s)", "(q, s)")
        .replace("uint8[n", f"{dtype}[n")
        .replace("QuantizeLinear(d", f"QuantizeLinear{output}(d")
    )
    model = graph(body, HEADER.replace("20", "21"))
    q = Q.view(dtype)
    before = compute(model, {"q": q})["y"]
    assert None in [s.reason for s in sites(model, MoveQdq())]
    assert operators(model) == ["Identity"]
    assert np.array_equal(compute(model, {"q": q})["y"], before)


def test_subgraphs_are_visited() -> None:
    inner = UNIT.split("{\n", 1)[1].rsplit("}", 1)[0]
    model = graph(f"""g (bool c, uint8[n, 4] q, uint8[n, 4] p) => (uint8[k, 4] o) {LEVELS} {{ o = If (c) <
        then_branch = a () => (uint8[k, 4] y) {{ {inner} }},
        else_branch = b () => (uint8[n, 4] i) {{ i = Identity(p) }}> }}""")
    feeds: dict[str, Array] = {"c": np.array(True), "q": Q, "p": FEEDS["p"]}
    before = compute(model, feeds)["o"]
    assert [s.reason for s in sites(model, MoveQdq())] == [None]
    assert np.array_equal(compute(model, feeds)["o"], before)


ONE_EACH = "scale and zero point are not one constant each"
GUARDS = [
    ("dequantized from another scale or zero point", PAIR.replace("(d, s, z)", "(d, t, z)")),
    ("not between FLOAT and 8 bits", PAIR.replace("(h, s, z)", "(h, s)")),
    (ONE_EACH, PAIR.replace("(uint8[n, 4] q)", "(uint8[n, 4] q, float s)").replace("float s = {0.1}, ", "")),
    (ONE_EACH, SINK.replace("float s = {0.1}, uint8 z = {100}",
     "float[4] s = {1, 2, 3, 4}, uint8[4] z = {1, 2, 3, 4}")),
    ("the scale is so small or so large that levels are not exact", PAIR.replace("{0.1}", "{1e-39}")),
    ("the scale is so small or so large that levels are not exact", PAIR.replace("{0.1}", "{1e37}")),
    ("the scale is so small or so large that levels are not exact", SINK.replace("{0.1}", "{-0.1}")),
    ("not between FLOAT and 8 bits", PAIR.replace("uint8", "uint16").replace(": 20]", ": 21]")),
    ("operands have other scales or zero points", UNIT.replace("(p, s, z)", "(p, t, z)")
     .replace("y = Q", "f = Neg(m)\n y = Q")
     .replace("uint8[k, 4] y", "float[k, 4] f").replace("y = QuantizeLinear(m, s, z)", "")),
    ("an operand is not dequantized", UNIT.replace("uint8[n, 4] p", "float[n, 4] e")
     .replace("e = DequantizeLinear(p, s, z)", "")
     .replace("uint8[k, 4] y", "float[k, 4] m").replace("y = QuantizeLinear(m, s, z)", "")),
    ("a weight is dequantized", SINK.replace("uint8[n, 4] q", "float unused")
     .replace("<float s", "<uint8[1, 4] q = {1, 2, 3, 4}, float s")
     .replace("[4, n] y", "[4, 1] y")),
    ("no move that it alone reads leads into it", HOIST
     .replace("m = Transpose<perm = [1, 0]>(r)", "m = Neg(r)").replace("[4, n]", "[n, 4]")),
    ("no move that it alone reads leads into it", HOIST.replace("(uint8[4, n] y)", "(uint8[4, n] y, float[4, n] m)")),
    ("no move that it alone reads leads into it", HOIST
     .replace("Transpose<perm = [1, 0]>(r)", "MaxPool<kernel_shape = [2]>(c)")
     .replace("m = Max", "c = Reshape(r, cube)\n m = Max").replace("[4, n]", "[a, b, c]")),
    ("nothing is computed before the move", HOIST.replace("r = Relu(x)", "").replace("(r)", "(x)")),
    ("the value before the move has another reader, is a graph output, or is computed in another graph",
     HOIST.replace("(uint8[4, n] y)", "(uint8[4, n] y, float[n, 4] r)")),
    ("dequantized before the move: the other way round", SINK.replace("float[4, n] y", "uint8[4, n] y")
     .replace("y = Relu(m)", "y = QuantizeLinear(m, t, z)").replace("(q, s, z)", "(q, s, w)")
     .replace("uint8[n, 4] q", "uint8[n, 4] q, uint8 w")),
    (ONE_EACH, HOIST.replace("float[n, 4] x", "float[n, 4] x, float w").replace("(m, s, z)", "(m, w, z)")),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "body"), GUARDS)
def test_guard(reason: str, body: str) -> None:
    model = graph(body, HEADER.replace("20", "21"))
    before = serialized(model)
    found = [s.reason for s in sites(model, MoveQdq())]
    assert reason in found
    assert None not in found
    assert serialized(model) == before


POOL = SINK.replace("m = Transpose<perm = [1, 0]>(d)", "m = MaxPool<kernel_shape = [2]>(d)").replace(
    "uint8[n, 4] q", "uint8[n, 2, 4] q").replace("float[4, n] y", "float[n, 2, b] y")  # fmt: skip


def test_max_pool_takes_levels_since_opset_12() -> None:
    model = graph(POOL, HEADER.replace("20", "11"))
    before = serialized(model)
    assert [s.reason for s in sites(model, MoveQdq())] == ["MaxPool takes 8-bit numbers since opset 12"]
    assert serialized(model) == before


@pytest.mark.parametrize("pool", ["dilations = [2], ", "ceil_mode = 1, "])
def test_a_pool_with_windows_of_padding_is_no_move(pool: str) -> None:
    assert sites(graph(POOL.replace("<kernel", f"<{pool}kernel")), MoveQdq()) == ()


def test_every_level_comes_back() -> None:
    """Q(DQ(q)) = q, which the cancelled pair relies on, at scales from the smallest to the largest allowed."""
    rng, info = np.random.default_rng(0), np.finfo(np.float32)
    scales = [info.tiny, info.max / 255, *np.exp(rng.uniform(np.log(info.tiny), np.log(info.max / 255), 60))]
    levels = np.arange(256, dtype=np.uint8)
    model = graph("""g (uint8[n] q, float s, uint8 z) => (uint8[n] y) {
        d = DequantizeLinear(q, s, z) y = QuantizeLinear(d, s, z) }""")
    for scale in map(np.float32, scales):
        feeds: dict[str, Array] = {"q": levels, "s": np.array(scale), "z": np.array(rng.integers(256), np.uint8)}
        assert np.array_equal(compute(model, feeds)["y"], levels)


STEPS: dict[str, Callable[[np.random.Generator], tuple[list[str], dict[str, Any]]]] = {
    "Transpose": lambda rng: ([], {"perm": rng.permutation(3).tolist()}),
    "Tile": lambda _: (["twos"], {}),
    "Gather": lambda rng: (["picks"], {"axis": int(rng.integers(3))}),
    "Relu": lambda _: ([], {}),
    "Concat": lambda rng: ([], {"axis": int(rng.integers(3))}),
    "Q": lambda _: ([], {}), "DQ": lambda _: ([], {}),
}  # fmt: skip


def random_graph(rng: np.random.Generator, count: int) -> ir.Model:
    """Moves, pairs and other operators on values of three axes."""
    make, nodes, values = onnx.helper.make_node, [], ["x"]
    for i in range(count):
        step, x, y = str(rng.choice(list(STEPS))), str(rng.choice(values[-2:])), f"v{i}"
        operands, attributes = STEPS[step](rng)
        if step in ("Q", "DQ"):
            s = "s" if rng.random() < 0.7 else "t"
            nodes += [
                make("QuantizeLinear", [x, s, "z"], [f"q{i}"]),
                make("DequantizeLinear", [f"q{i}", "s", "z"], [y]),
            ]
        else:
            nodes.append(make(step, [x, x] if step == "Concat" else [x, *operands], [y], **attributes))
        values.append(y)
    arrays: dict[str, Any] = {"s": np.float32(0.02), "t": np.float32(0.03), "z": np.uint8(99),
                              "twos": np.array([1, 2, 1]), "picks": np.array([1, 0])}  # fmt: skip
    info = onnx.helper.make_tensor_value_info
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes, "g", [info("x", 1, [2, 2, 2])], [info(v, 1, ["a", "b", "c"]) for v in {values[-1], values[-2]}],
            [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10,
    )  # fmt: skip
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 30), st.integers(2, 9), st.sampled_from([0.0, np.nan, np.inf, -np.inf]))
def test_properties(seed: int, count: int, special: float) -> None:
    rng = np.random.default_rng(seed)
    model = random_graph(rng, count)
    for i, node in enumerate(model.graph):
        node.name = f"n{i}"
    x = rng.uniform(-3, 4, (2, 2, 2)).astype(np.float32)
    x[0, 1, 0] = special
    before, interface, untouched = compute(model, {"x": x}), Interface.of(model), serialized(model)
    (record,) = pipeline.run(model, [MoveQdq()])
    assert Interface.of(model) == interface
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert record.modified or serialized(model) == untouched
    after = compute(model, {"x": x})
    assert all(np.array_equal(after[k], before[k], equal_nan=True) for k in before)
    for _ in range(count):  # what moved away may let another move
        if not pipeline.run(model, [MoveQdq()])[0].modified:
            break
    assert not pipeline.run(model, [MoveQdq()])[0].modified
    after = compute(model, {"x": x})
    assert all(np.array_equal(after[k], before[k], equal_nan=True) for k in before)


class Shuffled(torch.nn.Module):
    """Convolutions with their channels split, joined and turned in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.Conv2d(8, 4, 1)
        self.pool, self.head = torch.nn.MaxPool2d(2), torch.nn.Linear(36, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.first(x))
        left, right = torch.split(h, 4, dim=1)
        h = self.pool(self.second(torch.cat([right, left], dim=1)))
        out: torch.Tensor = self.head(h.permute(0, 2, 3, 1).flatten(1))
        return out


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_what_quantize_static_writes(exporter: str) -> None:
    torch.manual_seed(0)
    float32 = EXPORTERS[exporter](Shuffled().eval(), torch.randn(2, 4, 6, 6))
    model = statically(float32, [seeded((2, 4, 6, 6), seed) for seed in range(4)])
    feeds = seeded((2, 4, 6, 6), 9)
    before, found = compute(model, feeds)["y"], Counter(operators(model))
    applied = [s.reason for s in sites(model, MoveQdq())].count(None)
    after = Counter(operators(model))
    assert applied
    assert after["QuantizeLinear"] + after["DequantizeLinear"] < found["QuantizeLinear"] + found["DequantizeLinear"]
    assert np.array_equal(compute(model, feeds)["y"], before)
