from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.interface import Interface
from dlc.passes.quantize_dynamic import FULL, REDUCED, QuantizeDynamic, quantize
from dlc.types import Array
from tests.passes.texts import compute, expected, serialized, sites, text
from tests.passes.weights import sqnr, weighted

RNG = np.random.default_rng(0)
W: Array = RNG.standard_normal((8, 4)).astype(np.float32)
B: Array = RNG.standard_normal(4).astype(np.float32)
LINEAR = """g (float[n, 8] x, float[8, 4] w, float[4] b) => (float[n, 4] y) {
    p = MatMul(x, w)
    y = Add(p, b)
}"""


def test_golden() -> None:
    model = weighted(LINEAR, {"w": W, "b": B})
    assert [s.reason for s in sites(model, QuantizeDynamic())] == [None]
    assert text(model) == expected("""
        x.quantized, x.scale, x.zero_point = DynamicQuantizeLinear(x)
        y = MatMulIntegerToFloat(x.quantized, w.quantized, x.scale, w.scale, x.zero_point, , node_y.bias)
        w.quantized: [8,4]
        w.scale: [4]
        node_y.bias: [4]
    """)
    assert model.opset_imports["com.microsoft"] == 1


def test_golden_standard_operators() -> None:
    model = weighted(LINEAR, {"w": W, "b": B})
    sites(model, QuantizeDynamic(contrib=False))
    assert [n.op_type for n in model.graph] == [
        "DynamicQuantizeLinear", "MatMulInteger", "Cast", "Mul", "Mul", "Add"
    ]  # fmt: skip
    assert "com.microsoft" not in model.opset_imports


def test_an_excluded_product_stays_as_it_is() -> None:
    model = weighted(LINEAR, {"w": W, "b": B})
    before = serialized(model)
    assert [s.reason for s in sites(model, QuantizeDynamic(exclude=("node_p",)))] == ["excluded"]
    assert serialized(model) == before


def test_an_excluded_table_stays_as_it_is() -> None:
    body = "g (int64[n] i, float[8, 4] w) => (float[n, 4] y) { y = Gather(w, i) }"
    model = weighted(body, {"w": W})
    options = QuantizeDynamic(exclude=("node_y",), min_elements=1)
    assert [s.reason for s in sites(model, options)] == ["excluded"]


def test_readers_of_one_tensor_share_its_quantization() -> None:
    body = """g (float[n, 8] x, float[8, 4] w, float[8, 4] v) => (float[n, 4] y, float[n, 4] z) {
        y = MatMul(x, w)
        z = MatMul(x, v)
    }"""
    model = weighted(body, {"w": W, "v": W + 1})
    assert [s.reason for s in sites(model, QuantizeDynamic())] == [None, None]
    assert [n.op_type for n in model.graph].count("DynamicQuantizeLinear") == 1


def test_a_weight_of_two_products_is_quantized_once() -> None:
    body = """g (float[n, 8] x, float[8, 4] w) => (float[n, 4] y, float[n, 4] z) {
        h = Neg(x)
        y = MatMul(x, w)
        z = MatMul(h, w)
    }"""
    model = weighted(body.replace("h = Neg", "h = Relu"), {"w": W})
    model.graph.node("node_h").outputs[0].shape = ir.Shape([None, 8])
    sites(model, QuantizeDynamic())
    assert list(model.graph.initializers) == ["w.quantized", "w.scale"]


def test_embedding_table() -> None:
    table = RNG.standard_normal((32, 8)).astype(np.float32)
    model = weighted(
        "g (int64[n, s] i, float[32, 8] t) => (float[n, s, 8] y) { y = Gather(t, i) }", {"t": table}
    )  # fmt: skip
    assert [s.reason for s in sites(model, QuantizeDynamic(min_elements=256))] == [None]
    y = compute(model, {"i": np.arange(32).reshape(2, 16)})["y"].reshape(32, 8)
    step = np.abs(table).max(axis=1, keepdims=True) / FULL
    # Rounding to the nearest of the steps, and one FP32 product.
    assert (np.abs(y - table) <= step * (0.5 + 2e-5)).all()
    assert {v.dtype for v in model.graph.initializers.values()} == {ir.DataType.INT8, ir.DataType.FLOAT}


def test_reduced_range_cannot_saturate() -> None:
    """Two products of an activation at 255 with the largest weights fit into 16 bits, as the AVX2 kernel adds them."""
    quantized, _ = quantize(W, axis=0, limit=REDUCED)
    assert 2 * 255 * int(np.abs(quantized.astype(int)).max()) <= np.iinfo(np.int16).max
    assert np.iinfo(np.int16).max < 2 * 255 * (REDUCED + 1)


def test_a_column_of_zeros_has_a_scale() -> None:
    weight = W.copy()
    weight[:, 2] = 0
    quantized, scale = quantize(weight, axis=0, limit=FULL)
    assert scale[2] == 1
    assert not quantized[:, 2].any()
    # The largest of each column is stored at the limit, exactly.
    assert [int(c) for c in np.abs(quantized).max(axis=0)] == [FULL, FULL, 0, FULL]


def gemm(attributes: str = "", x: str = "float[n, 8] x", w: str = "float[8, 4] w", b: str = "float[4] b") -> str:
    return f"g ({x}, {w}, {b}) => (float[n, 4] y) {{ y = Gemm{attributes}(x, w, b) }}"


@pytest.mark.parametrize(
    ("body", "weight"),
    [(gemm("<alpha = 0.5, beta = 2.0>"), W), (gemm("<transB = 1>", w="float[4, 8] w"), np.ascontiguousarray(W.T))],
    ids=["alpha-beta", "transB"],
)
def test_gemm(body: str, weight: Array) -> None:
    model = weighted(body, {"w": weight, "b": B})
    feeds = {"x": RNG.standard_normal((5, 8)).astype(np.float32)}
    before = compute(model, feeds)["y"]
    assert [s.reason for s in sites(model, QuantizeDynamic(reduce_range=True))] == [None]
    # 8 bits of x against its peak (about 3 sigma) give 47 dB, 7 bits of W 45 dB; the sum of both noises 43 dB.
    assert sqnr(before, compute(model, feeds)["y"]) > 37


CONV = "g (float[n, 1, 4, 4] x, float[2, 1, 2, 2] w) => (float[n, 2, 3, 3] y) { y = Conv(x, w) }"
MATMUL = "g (float[n, 8] x, float[8, 4] w) => (float[n, 4] y) { y = MatMul(x, w) }"
GATHER = "g (int64[n] i, float[8, 4] w) => (float[n, 4] y) { y = Gather(w, i) }"
GUARDS = [
    ("dynamic int8 convolution is slower than FP32 wherever it was measured; quantize it statically", CONV,
     np.ones((2, 1, 2, 2), np.float32)),
    ("only the left operand is constant",
     "g (float[4, n] x, float[8, 4] w) => (float[8, n] y) { y = MatMul(w, x) }", W),
    ("both operands are constant", "g (float[8, 4] w) => (float[4, 4] y) { t = Transpose(w)\n y = MatMul(w, w) }",
     np.ones((4, 4), np.float32)),
    ("the weight is DOUBLE, not FLOAT", MATMUL.replace("float[", "double["), W.astype(np.float64)),
    ("the weight holds NaN or infinity", MATMUL, np.full((8, 4), np.inf, np.float32)),
    ("the weight is not a matrix", MATMUL.replace("[8, 4] w", "[1, 8, 4] w").replace("[n, 4] y", "[1, n, 4] y"),
     W[None]),
    ("the activation is a vector, or its rank is unknown",
     MATMUL.replace("[n, 8] x", "[8] x").replace("[n, 4] y", "[4] y"), W),
    ("the activation is transposed",
     "g (float[8, n] x, float[8, 4] w) => (float[n, 4] y) { y = Gemm<transA = 1>(x, w) }", W),
    ("the bias is not one constant for each column", gemm(b="float[n, 4] b"), W),
    ("the table has 32 elements, fewer than min_elements=1048576", GATHER, W),
    ("not a lookup of the rows of a matrix",
     GATHER.replace("Gather(", "Gather<axis = 1>(").replace("[n, 4] y", "[8, n] y"), W),
    ("no dynamic int8 form of Einsum",
     MATMUL.replace("MatMul(", "Einsum<equation = \"ij,jk->ik\">("), W),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "body", "weight"), GUARDS, ids=[g[0][:40] for g in GUARDS])
def test_guard(reason: str, body: str, weight: Array) -> None:
    if "both" in reason:
        body = body.replace("[8, 4] w", "[4, 4] w").replace("t = Transpose(w)\n ", "")
    model = weighted(body, {"w": weight})
    before = serialized(model)
    (record,) = pipeline.run(model, [QuantizeDynamic()])
    assert [s.reason for s in record.sites] == [reason]
    assert not record.modified
    assert serialized(model) == before


def test_tables_can_be_left() -> None:
    model = weighted(GATHER, {"w": W})
    found = sites(model, QuantizeDynamic(embeddings=False, min_elements=1))
    assert [s.reason for s in found] == ["tables stay as they are: embeddings=False"]


def test_a_node_of_a_subgraph_is_a_guard() -> None:
    body = """g (float[n, 8] x, float[8, 4] w, bool p) => (float[n, 4] y) {
        y = If (p) <then_branch = t () => (float[n, 4] a) { a = MatMul(x, w) },
                    else_branch = e () => (float[n, 4] c) { c = MatMul(x, w) }>
    }"""
    model = weighted(body, {"w": W})
    assert [s.reason for s in sites(model, QuantizeDynamic())] == ["the node is in a subgraph"] * 2


def test_a_bias_with_another_reader_of_the_product_stays_outside() -> None:
    model = weighted(LINEAR.replace("4] y)", "4] y, float[n, 4] p)"), {"w": W, "b": B})
    assert [s.reason for s in sites(model, QuantizeDynamic())] == [None]
    assert [n.op_type for n in model.graph] == ["DynamicQuantizeLinear", "MatMulIntegerToFloat", "Add"]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 5), st.integers(16, 64), st.integers(1, 9)),
    st.booleans(), st.booleans(), st.booleans(), st.integers(0, 1 << 16),
)  # fmt: skip
def test_properties(
    sizes: tuple[int, int, int], bias: bool, reduce_range: bool, contrib: bool, seed: int
) -> None:  # fmt: skip
    m, k, n = sizes
    rng = np.random.default_rng(seed)
    body = f"""g (float[b, 2, {k}] x, float[{k}, {n}] w, float[{n}] c) => (float[b, 2, {n}] y) {{
        {"p = MatMul(x, w)  y = Add(c, p)" if bias else "y = MatMul(x, w)"}
    }}"""
    weights = {"w": rng.standard_normal((k, n)).astype(np.float32), "c": rng.standard_normal(n).astype(np.float32)}
    model = weighted(body, weights)
    feeds = {"x": rng.standard_normal((m, 2, k)).astype(np.float32)}
    before, interface = compute(model, feeds)["y"], Interface.of(model)
    (record,) = pipeline.run(model, [QuantizeDynamic(reduce_range=reduce_range, contrib=contrib)])
    assert [s.reason for s in record.sites] == [None]
    assert record.modified
    assert Interface.of(model) == interface
    if not contrib:
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
    after = compute(model, feeds)["y"]
    # |error of one product| <= |x| sw/2 + |w| sx/2 + sx sw/4 (+ saturation, which 8-bit weights may meet on AVX2 and
    # 7-bit weights never do); sw = max|w| / limit, sx = (max x - min x) / 255. Summed over k, plus FP32 rounding.
    if reduce_range:
        x, w = feeds["x"].astype(np.float64), weights["w"].astype(np.float64)
        sw = np.abs(w).max(axis=0) / REDUCED
        sx = (max(x.max(), 0) - min(x.min(), 0)) / 255
        bound = np.abs(x).sum(-1, keepdims=True) * sw / 2 + np.abs(w).sum(0) * sx / 2 + k * sx * sw / 4
        assert (np.abs(after - before) <= bound * (1 + 1e-4)).all()
    (again,) = pipeline.run(model, [QuantizeDynamic(reduce_range=reduce_range, contrib=contrib)])
    assert not again.modified
