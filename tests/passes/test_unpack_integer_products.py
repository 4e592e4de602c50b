from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.interface import Interface
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.passes.unpack_integer_products import UnpackIntegerProducts
from tests.passes.exported import EXPORTERS
from tests.passes.quantized import seeded
from tests.passes.texts import compute, expected, serialized, sites, text

HEADER = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>'
PACKED = """g (float[n, 4] x) => (float[n, 1] y, float[n, 2] z)
    <int8[4, 3] w = {1, -2, 3, -4, 5, -6, 7, -8, 9, 1, 2, 3}, float[3] s = {0.5, 0.25, 1}, float[3] b = {1, -1, 0},
     int64[2] sizes = {1, 2}> {
    q, t, u = DynamicQuantizeLinear(x)
    p = com.microsoft.MatMulIntegerToFloat(q, w, t, s, u, , b)
    y, z = Split<axis = 1>(p, sizes)
}"""
X = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}


def packed(body: str = PACKED, shape: bool = True) -> ir.Model:
    model = ir.from_onnx_text(f"{HEADER}\n{body}")
    if shape:
        for node in model.graph:
            if node.op_type == "DynamicQuantizeLinear":
                node.outputs[0].shape = ir.Shape(["n", 4])
    return model


def test_golden() -> None:
    model = packed()
    before, interface = compute(model, X), Interface.of(model)
    assert [s.reason for s in sites(model, UnpackIntegerProducts())] == [None]
    assert text(model) == expected("""
        q, t, u = DynamicQuantizeLinear(x)
        y = MatMulIntegerToFloat(q, w.0, t, s.0, u, , b.0)
        z = MatMulIntegerToFloat(q, w.1, t, s.1, u, , b.1)
        w.0: [4,1]
        s.0: [1]
        b.0: [1]
        w.1: [4,2]
        s.1: [2]
        b.1: [2]""")
    assert Interface.of(model) == interface
    after = compute(model, X)
    assert all(np.array_equal(after[k], before[k]) for k in before)


EQUAL = (PACKED.replace("4, 3] w = {1, -2, 3, -4, 5, -6, 7, -8, 9, 1, 2, 3}", "4, 2] w = {1, -2, 3, -4, 5, -6, 7, -8}")
         .replace("float[3] s = {0.5, 0.25, 1}, float[3] b = {1, -1, 0}", "float s = {0.5}, float[2] b = {1, -1}")
         .replace("float[n, 2] z", "float[n, 1] z")
         .replace("int64[2] sizes = {1, 2}", "int8 zero = {1}"))  # fmt: skip


@pytest.mark.parametrize("split", ["<axis = -1, num_outputs = 2>(p)", "<axis = 1, num_outputs = 2>(p)"])
def test_parts_of_one_size_share_one_scale(split: str) -> None:
    model = packed(EQUAL.replace("<axis = 1>(p, sizes)", split).replace("u, , b", "u, zero, b"))
    before = compute(model, X)
    assert [s.reason for s in sites(model, UnpackIntegerProducts())] == [None]
    after = compute(model, X)
    assert all(np.array_equal(after[k], before[k]) for k in before)


AXIS = "not split along the columns, into known sizes"
GUARDS = [
    ("the product has another reader or is a graph output", PACKED
     .replace("float[n, 2] z)", "float[n, 2] z, float[n, 3] p)")),
    ("the product has another reader or is a graph output", PACKED
     .replace("float[n, 2] z)", "float[n, 2] z, float[n, 3] v)")
     .replace("y, z =", "v = Neg(p)\n y, z =")),
    ("weight, scale, zero point or bias is not constant", PACKED.replace("float[n, 4] x", "float[n, 4] x, float[3] b")
     .replace(", float[3] b = {1, -1, 0}", "")),
    (AXIS, PACKED.replace("axis = 1", "axis = 0")
     .replace("float[n, 1] y, float[n, 2] z", "float[a, 3] y, float[c, 3] z")),
    (AXIS, PACKED.replace("float[n, 4] x", "float[n, 4] x, int64[2] sizes")
     .replace(",\n     int64[2] sizes = {1, 2}", "")
     .replace("float[n, 1] y, float[n, 2] z", "float[n, a] y, float[n, c] z")),
    (AXIS, PACKED.replace("sizes = {1, 2}", "sizes = {0, 3}")
     .replace("[n, 1] y, float[n, 2] z", "[n, 0] y, float[n, 3] z")),
    (AXIS, PACKED.replace("(p, sizes)", "(p)").replace("axis = 1", "axis = 1, num_outputs = 2")
     .replace("[n, 1] y, float[n, 2] z", "[n, 2] y, float[n, 1] z")),
    ("the weight is not a matrix", PACKED.replace("[4, 3] w", "[1, 4, 3] w").replace("axis = 1", "axis = -1")
     .replace("[n, 1] y, float[n, 2] z", "[1, n, 1] y, float[1, n, 2] z")),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "body"), GUARDS)
def test_guard(reason: str, body: str) -> None:
    model = packed(body)
    before = serialized(model)
    assert [s.reason for s in sites(model, UnpackIntegerProducts())] == [reason]
    assert serialized(model) == before


def test_an_axis_counted_from_the_front_needs_the_rank() -> None:
    assert [s.reason for s in sites(packed(shape=False), UnpackIntegerProducts())] == [AXIS]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    rows=st.integers(0, 5), k=st.integers(1, 70), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    bias=st.booleans(), per_column=st.booleans(), seed=st.integers(0, 1 << 16),
)  # fmt: skip
def test_the_numbers_stay_exactly(rows: int, k: int, sizes: list[int], bias: bool, per_column: bool, seed: int) -> None:
    rng, n = np.random.default_rng(seed), sum(sizes)
    weight, width = rng.integers(-127, 128, (k, n)), n if per_column else 1
    outputs = [f"y{i}" for i in range(len(sizes))]
    declared = ", ".join(f"float[n, {size}] {y}" for size, y in zip(sizes, outputs, strict=True))
    body = f"""g (float[n, {k}] x) => ({declared}) <int8[{k}, {n}] w = {{{", ".join(map(str, weight.ravel()))}}},
        float[{width}] s = {{{", ".join(map(repr, rng.uniform(0.1, 1, width).tolist()))}}},
        float[{n}] b = {{{", ".join(map(repr, rng.standard_normal(n).tolist()))}}},
        int64[{len(sizes)}] sizes = {{{", ".join(map(str, sizes))}}}> {{
        q, t, u = DynamicQuantizeLinear(x)
        p = com.microsoft.MatMulIntegerToFloat(q, w, t, s, u{", , b" if bias else ""})
        {", ".join(outputs)} = Split<axis = -1>(p, sizes)
    }}"""
    model = packed(body, shape=False)
    feeds = {"x": rng.standard_normal((rows, k)).astype(np.float32)}
    before, interface = compute(model, feeds), Interface.of(model)
    (record,) = pipeline.run(model, [UnpackIntegerProducts()])
    assert [s.reason for s in record.sites] == [None]
    assert Interface.of(model) == interface
    after = compute(model, feeds)
    assert all(np.array_equal(after[name], before[name]) for name in before)
    assert not pipeline.run(model, [UnpackIntegerProducts()])[0].modified


class Packed(torch.nn.Module):
    """Q, K and V from one projection."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = torch.nn.Linear(16, 48)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).split(16, dim=-1)
        out: torch.Tensor = torch.softmax(q * k, -1) + v
        return out


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_real_model(exporter: str) -> None:
    torch.manual_seed(0)
    model, feeds = EXPORTERS[exporter](Packed().eval(), torch.randn(2, 5, 16)), seeded((2, 5, 16))
    pipeline.run(model, [QuantizeDynamic()])
    before = compute(model, feeds)["y"]
    assert [s.reason for s in sites(model, UnpackIntegerProducts())] == [None]
    assert sum(n.op_type == "MatMulIntegerToFloat" for n in model.graph) == 3
    assert np.array_equal(compute(model, feeds)["y"], before)
