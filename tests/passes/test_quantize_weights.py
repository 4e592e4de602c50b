from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.errors import Unsupported
from dlc.export import export
from dlc.interface import Interface
from dlc.models import digits_cnn, digits_mlp
from dlc.passes.blockwise import METHODS, Blocks, Method, quantize
from dlc.passes.quantize_weights import QuantizeWeights
from dlc.passes.round_weights import Moments
from dlc.recipe import Recipe
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.types import Array
from tests.passes.texts import compute, expected, serialized, sites, text
from tests.passes.weights import TIED, WITH_CONTRIB, normal, sqnr, weighted

EPS = 2.0**-24
"""Half the gap between FP32 neighbours, relative: the rounding error of one operation."""
MATMUL = "g (float[m, 64] x, float[64, 48] w) => (float[m, 48] y) { y = MatMul(x, w) }"
GEMM = """g (float[m, 64] x, float[48, 64] w, float[48] b) => (float[m, 48] y) {
    y = Gemm<alpha = 0.5, beta = 2.0, transB = 1>(x, w, b)
}"""
GATHER = "g (int64[m] i, float[40, 64] w) => (float[m, 64] y) { y = Gather(w, i) }"
CONV = """g (float[m, 8, 6, 6] x, float[24, 8, 3, 3] w) => (float[m, 24, 4, 4] y) { y = Conv(x, w) }"""


def matmul() -> ir.Model:
    return weighted(MATMUL, {"w": normal(64, 48)})


def dequantized(model: ir.Model, bits: int, k: int, block: int) -> Array:
    """Unpack MatMulNBits' operands the obvious way. [N, K]"""
    node = next(n for n in model.graph if n.op_type == "MatMulNBits")
    b, scales, *rest = (None if v is None or v.const_value is None else v.const_value.numpy() for v in node.inputs[1:])
    assert b is not None
    assert scales is not None
    zeros = rest[0] if rest else None
    out = np.zeros((b.shape[0], k), np.float32)
    for row in range(b.shape[0]):
        for col in range(k):
            at, i = divmod(col, block)
            zero = 1 << (bits - 1)
            if bits == 4:
                q = b[row, at, i // 2] >> (4 * (i % 2)) & 15
                zero = zero if zeros is None else int(zeros[row, at // 2]) >> (4 * (at % 2)) & 15
            else:
                q = b[row, at, i]
                zero = zero if zeros is None else int(zeros[row, at])
            out[row, col] = np.float32(int(q) - zero) * scales[row, at]
    return out


def test_golden_matmul() -> None:
    model = matmul()
    assert [(s.node, s.op, s.reason) for s in sites(model, QuantizeWeights())] == [("node_y", "MatMul", None)]
    assert text(model) == expected("""
        y = MatMulNBits(x, w_q4, w_scale)
        w_q4: [48,2,16]
        w_scale: [48,2]
    """)
    assert model.opset_imports["com.microsoft"] == 1


def test_golden_gemm_asymmetric() -> None:
    model = weighted(GEMM, {"w": normal(48, 64), "b": normal(48)})
    sites(model, QuantizeWeights(symmetric=False))
    assert text(model) == expected("""
        y = MatMulNBits(x, w_q4, w_scale, w_zero, , b_bias)
        w_q4: [48,2,16]
        w_scale: [48,2]
        w_zero: [48,1]
        b_bias: [48]
    """)


def test_golden_gather() -> None:
    model = weighted(GATHER, {"w": normal(40, 64)})
    sites(model, QuantizeWeights())
    assert text(model) == expected("""
        y = GatherBlockQuantized(w_q4, i, w_scale)
        w_q4: [40,32]
        w_scale: [40,2]
    """)


def test_golden_conv_in_4_bits_is_unpacked_in_the_graph() -> None:
    model = weighted(CONV, {"w": normal(24, 8, 3, 3)})
    sites(model, QuantizeWeights(conv_bits=4))
    assert text(model) == expected("""
        w_cast = Cast(w_q4)
        w_gather = Gather(nibbles, w_cast)
        w_mul = Mul(w_gather, w_scale)
        w_reshape = Reshape(w_mul, w_flat)
        w_slice = Slice(w_reshape, int_0, int_72, int_1)
        w_reshape_1 = Reshape(w_slice, w_shape)
        y = Conv(x, w_reshape_1)
        nibbles: [256,2]
        w_q4: [24,3,16]
        w_scale: [24,3,1,1]
        w_flat: [2]
        int_0: [1]
        int_72: [1]
        int_1: [1]
        w_shape: [4]
    """)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("k", [64, 100])
def test_matmul_computes_with_the_dequantized_weight(bits: int, k: int, *, symmetric: bool) -> None:
    body = MATMUL.replace("64", str(k))
    model, x = weighted(body, {"w": normal(k, 48)}), normal(5, k, seed=1)
    sites(model, QuantizeWeights(bits=bits, symmetric=symmetric, accuracy_level=0))
    w = dequantized(model, bits, k, 32)
    got = compute(model, {"x": x})["y"]
    # Each weight is the same float32 product (q - zero) * scale, or one rounding away; then two sums of k products.
    bound = (2 * k + 1) * EPS * (np.abs(x) @ np.abs(w).T)
    assert (np.abs(got - x.astype(np.float64) @ w.T) <= bound).all()


def test_gemm_folds_alpha_and_beta() -> None:
    weights = {"w": normal(48, 64), "b": normal(48, seed=2)}
    model, x = weighted(GEMM, weights), normal(5, 64, seed=1)
    before = compute(model, {"x": x})["y"]
    sites(model, QuantizeWeights(bits=8, accuracy_level=0))
    w = dequantized(model, 8, 64, 32)
    want = x.astype(np.float64) @ w.T + 2.0 * weights["b"]
    bound = (2 * 64 + 2) * EPS * (np.abs(x) @ np.abs(w).T + 2 * np.abs(weights["b"]))
    got = compute(model, {"x": x})["y"]
    assert (np.abs(got - want) <= bound).all()
    # 8 bits over a block's +-3 sigma: steps of 6/256 sigma, noise of step/sqrt(12): 43 dB.
    assert sqnr(before, got) > 40


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_gather_reads_the_dequantized_rows_exactly(bits: int, *, symmetric: bool) -> None:
    w, i = normal(40, 64), np.array([0, 39, 7, 7])
    model = weighted(GATHER, {"w": w})
    sites(model, QuantizeWeights(bits=bits, symmetric=symmetric))
    blocks = quantize(w, bits=bits, block=32, symmetric=symmetric, search=True)
    assert np.array_equal(compute(model, {"i": i})["y"], blocks.dequantize()[i])


@pytest.mark.parametrize("shape", [(24, 8, 3, 3), (8, 24, 3, 3), (24, 1, 3, 3), (48, 33, 1, 1)])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_conv_reads_the_dequantized_weight_exactly(shape: tuple[int, ...], bits: int, *, symmetric: bool) -> None:
    group = 24 if shape[1] == 1 else 1
    body = CONV.replace("24, 8, 3, 3", ", ".join(map(str, shape))).replace("8, 6, 6", f"{shape[1] * group}, 6, 6")
    body = body.replace("24, 4, 4", f"{shape[0]}, h, v").replace("Conv(", f"Conv<group = {group}>(")
    w = normal(*shape)
    model = weighted(body, {"w": w})
    sites(model, QuantizeWeights(conv_bits=bits, symmetric=symmetric, min_elements=1))
    conv = next(n for n in model.graph if n.op_type == "Conv")
    assert conv.inputs[1] is not None
    model.graph.outputs.append(conv.inputs[1])
    k = w.size // shape[0]
    blocks = quantize(w.reshape(shape[0], k), bits=bits, block=min(32, k + k % 2), symmetric=symmetric, search=True)
    got = compute(model, {"x": normal(2, shape[1] * group, 6, 6)})[str(conv.inputs[1].name)]
    assert np.array_equal(got, blocks.dequantize()[:, :k].reshape(shape))


def test_onnxruntime_folds_the_unpacking_when_it_loads(tmp_path: Path) -> None:
    import onnxruntime

    model = weighted(CONV, {"w": normal(24, 8, 3, 3)})
    sites(model, QuantizeWeights())
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = f"{tmp_path}/optimized.onnx"
    onnxruntime.InferenceSession(serialized(model), options, providers=["CPUExecutionProvider"])
    assert [n.op_type for n in ir.load(f"{tmp_path}/optimized.onnx").graph] == ["Conv"]


def moments_of(second: Array) -> Moments:
    return Moments(second[None].astype(np.float64), np.zeros((1, len(second))))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_computes_with_the_dequantized_weight(method: Method, *, symmetric: bool) -> None:
    w, x = normal(100, 48), normal(30, 100, seed=1)
    model = weighted("g (float[m, 100] x, float[100, 48] w) => (float[m, 48] y) { y = MatMul(x, w) }", {"w": w})
    moments = {"node_y": moments_of(x.T @ x)}
    sites(model, QuantizeWeights(accuracy_level=0, symmetric=symmetric, method=method, moments=moments))
    stored = dequantized(model, 4, 100, 32)
    bound = (2 * 100 + 1) * EPS * (np.abs(x) @ np.abs(stored).T)
    assert (np.abs(compute(model, {"x": x})["y"] - x.astype(np.float64) @ stored.T) <= bound).all()
    assert sqnr(w.T, stored) > 15  # a step is a seventh of the largest of 32 weights: noise from that alone is 20 dB


def test_gptq_rounds_what_it_has_no_moments_of_to_nearest() -> None:
    model, plain = (weighted(TIED, {"w": normal(40, 64), "t": normal(64, 40, seed=1)}) for _ in range(2))
    sites(model, QuantizeWeights(method="gptq", moments={"node_y": moments_of(np.eye(64) + 0.9)}))
    sites(plain, QuantizeWeights())
    same = {
        name: np.array_equal(a.const_value.numpy(), b.const_value.numpy())
        for (name, a), b in zip(model.graph.initializers.items(), plain.graph.initializers.values(), strict=True)
        if a.const_value is not None and b.const_value is not None
    }
    assert same["w_q4"]
    assert not same["t_q4"]


def test_recurrent_and_left_operands_are_unpacked() -> None:
    body = """g (float[s, 1, 32] x, float[1, 128, 32] w, float[1, 128, 32] r, float[32, 32] a, float[32, n] z)
        => (float[s, 1, 1, 32] y, float[32, n] p) { y = LSTM<hidden_size = 32>(x, w, r) p = MatMul(a, z) }"""
    weights = {"w": normal(1, 128, 32), "r": normal(1, 128, 32, seed=1), "a": normal(32, 32)}
    rounded = {
        name: quantize(w.reshape(-1, 32), bits=4, block=32, symmetric=True, search=True).dequantize().reshape(w.shape)
        for name, w in weights.items()
    }
    feeds = {"x": normal(3, 1, 32), "z": normal(32, 2)}
    model = weighted(body, weights)
    assert [s.applied for s in sites(model, QuantizeWeights())] == [True, True]
    # Folded on both sides: with optimisations off a weight that is computed takes another kernel than a constant one.
    with OrtCpuRunner(weighted(body, rounded)) as reference, OrtCpuRunner(model) as runner:
        want, got = reference.run(feeds), runner.run(feeds)
    assert all(np.array_equal(want[name], got[name]) for name in want)


REFUSED = {
    "weight has 4 elements, fewer than min_elements=512": (
        "g (float[m, 2] x, float[2, 2] w) => (float[m, 2] y) { y = MatMul(x, w) }", normal(2, 2)),
    "weight is DOUBLE, not FLOAT": (
        "g (double[m, 64] x, double[64, 64] w) => (double[m, 64] y) { y = MatMul(x, w) }",
        normal(64, 64).astype(np.float64)),
    "weight holds NaN or infinity": (
        "g (float[m, 64] x, float[64, 64] w) => (float[m, 64] y) { y = MatMul(x, w) }",
        np.full((64, 64), np.inf, np.float32)),
    "no weight-only form of Add": (
        "g (float[64, 64] x, float[64, 64] w) => (float[64, 64] y) { y = Add(x, w) }", normal(64, 64)),
    "weight is also read by Add 'node_z'": (
        "g (float[64, 64] x, float[64, 64] w) => (float[64, 64] y, float[64, 64] z) { y = MatMul(x, w) z = Add(x, w) }",
        normal(64, 64)),
    "not rows of a table: rank 2 and axis 0 are needed": (
        "g (int64[m] i, float[64, 64] w) => (float[64, m] y) { y = Gather<axis = 1>(w, i) }", normal(64, 64)),
    "rows of 40 elements are no whole blocks of 32": (
        "g (int64[m] i, float[64, 40] w) => (float[m, 40] y) { y = Gather(w, i) }", normal(64, 40)),
    "only a bias is constant": (
        "g (float[m, k] x, float[k, 600] v, float[1, 600] w) => (float[m, 600] y) { y = Gemm(x, v, w) }",
        normal(1, 600)),
    "the node is in a subgraph": (
        """g (bool c, float[64, 64] x, float[64, 64] w) => (float[64, 64] y) {
            y = If(c) <then_branch = t () => (float[64, 64] a) { a = MatMul(x, w) },
                       else_branch = e () => (float[64, 64] b) { b = Identity(x) }>
        }""", normal(64, 64)),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_each_refusal_says_why_and_nothing_quantized_is_an_error(reason: str) -> None:
    body, w = REFUSED[reason]
    model = weighted(body, {"w": w})
    before = serialized(model)
    with pytest.raises(Unsupported, match="nothing was quantized") as error:
        QuantizeWeights()(model)
    assert reason in str(error.value)
    assert serialized(model) == before


def test_a_weight_that_is_an_output_stays() -> None:
    model = weighted(MATMUL, {"w": normal(64, 48)})
    model.graph.outputs.append(model.graph.initializers["w"])
    with pytest.raises(Unsupported, match="weight is a graph output"):
        QuantizeWeights()(model)


def test_products_take_8_bits_by_name_rounded_to_nearest() -> None:
    body = """g (float[m, 64] x, float[64, 48] a, float[64, 48] b) => (float[m, 48] p, float[m, 48] q) {
        p = MatMul(x, a) q = MatMul(x, b)
    }"""
    model, x = weighted(body, {name: normal(64, 48) for name in "ab"}), normal(500, 64)
    seen = Moments((x.T @ x / 500).astype(np.float64)[None], x.mean(axis=0, dtype=np.float64)[None])
    learned = {"node_p": seen, "node_q": seen}
    QuantizeWeights(method="gptq", moments=learned, wide=("node_q",))(model)
    assert [n.attributes.get_int("bits") for n in model.graph] == [4, 8]
    nearest = weighted(body, {name: normal(64, 48) for name in "ab"})
    QuantizeWeights(bits=8)(nearest)
    (_, one), (_, other) = ([n.inputs[1] for n in m.graph] for m in (model, nearest))
    assert one is not None and one.const_value is not None  # noqa: PT018
    assert other is not None and other.const_value is not None  # noqa: PT018
    assert np.array_equal(one.const_value.numpy(), other.const_value.numpy())


def test_what_was_made_of_a_weight_is_remembered_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from dlc.passes import quantize_weights as module

    asked: list[int] = []

    def counted(w: Array, **options: object) -> Blocks:
        asked.append(int(str(options["bits"])))
        return quantize(w, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "quantize", counted)
    known: dict[Hashable, Blocks] = {}
    for bits in (4, 4, 8, 8):
        QuantizeWeights(bits=bits, known=known)(matmul())
    assert asked == [4, 8]
    QuantizeWeights(known=known)(weighted(MATMUL, {"w": 2 * normal(64, 48)}))
    QuantizeWeights()(matmul())
    assert asked == [4, 8, 4, 4]


def test_a_refused_node_is_reported_beside_an_applied_one() -> None:
    body = """g (float[m, 64] x, float[64, 64] w, float[64, 2] v) => (float[m, 2] y) {
        h = MatMul(x, w) y = MatMul(h, v)
    }"""
    model = weighted(body, {"w": normal(64, 64), "v": normal(64, 2)})
    assert [(s.node, s.applied) for s in sites(model, QuantizeWeights())] == [("node_h", True), ("node_y", False)]


@pytest.mark.parametrize(
    ("option", "message"),
    [({"bits": 3}, "bits=3"), ({"conv_bits": 2}, "conv_bits=2"), ({"block_size": 48}, "power of two"),
     ({"accuracy_level": 5}, "0 to 4"),
     ({"table_bits": 2}, "table_bits=2: weights are quantized to 4 or 8 bits"),
     ({"method": "awq"}, "method='awq': weights are rounded by rtn, hqq, gptq"),
     ({"method": "gptq"}, "needs moments of the products' inputs")],
)  # fmt: skip
def test_bad_options(option: dict[str, int], message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        QuantizeWeights(**option)  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 20),
    k=st.integers(16, 80),
    n=st.integers(1, 20),
    block=st.sampled_from([16, 32, 64]),
    bits=st.sampled_from([4, 8]),
    symmetric=st.booleans(),
    op=st.sampled_from(["MatMul", "Gemm"]),
)
def test_any_product(seed: int, k: int, n: int, block: int, *, bits: int, op: str, symmetric: bool) -> None:
    body = f"g (float[m, {k}] x, float[{k}, {n}] w) => (float[m, {n}] y) {{ y = {op}(x, w) }}"
    model = weighted(body, {"w": normal(k, n, seed=seed)})
    interface, x = Interface.of(model), normal(3, k, seed=seed + 1)
    options = QuantizeWeights(
        bits=bits, block_size=block, symmetric=symmetric, min_elements=1, accuracy_level=0, search=seed % 2 == 0
    )
    (record,) = pipeline.run(model, [options])
    assert record.modified
    assert Interface.of(model) == interface
    w = dequantized(model, bits, k, block)
    got = compute(model, {"x": x})["y"]
    bound = (2 * k + 1) * EPS * (np.abs(x) @ np.abs(w).T)
    assert (np.abs(got - x.astype(np.float64) @ w.T) <= bound).all()
    with pytest.raises(Unsupported, match="no node reads a weight"):
        options(model)


def test_onnxruntimes_own_quantizer_agrees() -> None:
    """The same nodes with the same bytes as MatMulNBitsQuantizer, the reference implementation."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    theirs = MatMulNBitsQuantizer(ir.to_proto(matmul()), bits=4, block_size=32, is_symmetric=True, accuracy_level=4)
    theirs.process()
    oracle = ir.from_proto(theirs.model.model)
    ours = matmul()
    sites(ours, QuantizeWeights(search=False))
    (a,), (b,) = list(ours.graph), list(oracle.graph)
    assert a.op_type == b.op_type
    assert {k: v.value for k, v in a.attributes.items()} == {k: v.value for k, v in b.attributes.items()}
    for mine, other in zip(a.inputs[1:3], b.inputs[1:3], strict=True):
        assert mine is not None
        assert other is not None
        assert mine.const_value is not None
        assert other.const_value is not None
        assert np.array_equal(mine.const_value.numpy(), other.const_value.numpy())


@pytest.mark.parametrize("recipe", [digits_cnn.recipe, digits_mlp.recipe], ids=["digits-cnn", "digits-mlp"])
def test_digits_keep_their_answers(recipe: Callable[[], Recipe]) -> None:
    declared = recipe()
    model = export(declared, opset=20, ir_version=10).model
    assert declared.evaluation is not None
    assert declared.evaluation.targets is not None
    batches = list(declared.evaluation.batches())
    feeds = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    targets = declared.evaluation.targets()
    before = compute(model, feeds)["scores"]
    weights = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    reported = sites(model, QuantizeWeights())
    packed = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    with OrtCpuRunner(model) as runner:
        after = runner.run(feeds)["scores"]
    right = [(scores.argmax(axis=1) == targets).mean() for scores in (before, after)]
    assert right[1] >= 0.99 * right[0]
    assert packed < 0.35 * weights
    assert sum(s.applied for s in reported) >= 3
    assert all(s.reason for s in reported if not s.applied)


def test_contrib_nodes_that_are_quantized_already_are_left() -> None:
    body = """g (float[m, 64] x, float[64, 48] w) => (float[m, 48] y) { y = com.microsoft.FusedMatMul(x, w) }"""
    model = weighted(body, {"w": normal(64, 48)}, WITH_CONTRIB)
    with pytest.raises(Unsupported, match="no weight-only form of FusedMatMul"):
        QuantizeWeights()(model)
