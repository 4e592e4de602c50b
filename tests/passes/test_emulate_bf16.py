from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.export import export
from dlc.interface import Interface
from dlc.models import digits_cnn
from dlc.passes.emulate_bf16 import BFLOAT16, EXACT, EmulateBf16
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.types import Array
from tests.passes.texts import compute, expected, serialized, sites, text
from tests.passes.weights import WITH_CONTRIB, normal, sqnr, weighted

LINEAR = """g (float[m, 8] x, float[8, 4] w, float[4] b) => (float[m, 4] y) {
    h = MatMul(x, w) s = Add(h, b) y = Relu(s)
}"""


def bf16(array: Array) -> Array:
    return array.astype(ml_dtypes.bfloat16).astype(np.float32)


def test_golden() -> None:
    model = weighted(LINEAR, {"w": normal(8, 4), "b": normal(4)})
    assert [(s.node, s.reason) for s in sites(model, EmulateBf16())] == [("node_h", None)]
    assert text(model) == expected("""
        x_bf16 = Cast(x)
        x_rounded = Cast(x_bf16)
        b_fp32 = Cast(b_bf16)
        w_fp32 = Cast(w_bf16)
        h = MatMul(x_rounded, w_fp32)
        h_bf16 = Cast(h)
        h_rounded = Cast(h_bf16)
        s = Add(h_rounded, b_fp32)
        s_bf16 = Cast(s)
        s_rounded = Cast(s_bf16)
        y = Relu(s_rounded)
        w_bf16: [8,4]
        b_bf16: [4]
    """)
    assert all(v.dtype == BFLOAT16 for v in model.graph.initializers.values())
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_an_excluded_node_keeps_its_weights_and_its_result() -> None:
    model = weighted(LINEAR, {"w": normal(8, 4), "b": normal(4)})
    assert [(s.node, s.reason) for s in sites(model, EmulateBf16(exclude=("node_h",)))] == [("node_h", "excluded")]
    assert text(model) == expected("""
        x_bf16 = Cast(x)
        x_rounded = Cast(x_bf16)
        b_fp32 = Cast(b_bf16)
        h = MatMul(x_rounded, w)
        s = Add(h, b_fp32)
        s_bf16 = Cast(s)
        s_rounded = Cast(s_bf16)
        y = Relu(s_rounded)
        w: [8,4]
        b_bf16: [4]
    """)


def ties_and_all(rng: np.random.Generator, n: int) -> Array:
    """Finite floats of every exponent, a third of them exactly between two BF16 neighbours, and the special values."""
    bits = rng.integers(0, 1 << 32, n, dtype=np.uint64).astype(np.uint32)
    bits[: n // 3] = bits[: n // 3] & 0xFFFF0000 | 0x8000
    special = np.array([0, 0x80000000, 0x7F7FFFFF, 0x7F7F8000, 0x7F7F7FFF, 1, 0x7F800000, 0xFF800000], np.uint32)
    x = np.concatenate([bits, special]).view(np.float32)
    return x[~np.isnan(x)]


@pytest.mark.parametrize("level", ["none", "basic", "extended", "all"])
def test_rounding_is_to_nearest_even_bit_for_bit_at_every_optimisation_level(level: str) -> None:
    body = "g (float[n] x) => (float[n] p, float[n] q) { p = Mul(x, x) s = Sqrt(p) q = Sub(s, x) }"
    model = weighted(body, {})
    sites(model, EmulateBf16())
    x = ties_and_all(np.random.default_rng(0), 30_000)
    with OrtCpuRunner(model, SessionConfig(graph_optimization=level)) as runner:  # type: ignore[arg-type]
        got = runner.run({"x": x})
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        p = bf16(bf16(x) * bf16(x))
        q = bf16(bf16(np.sqrt(p)) - bf16(x))
    assert np.array_equal(got["p"], p)
    assert np.array_equal(got["q"], q, equal_nan=True)


def test_a_network_equals_torchs_bf16_bit_for_bit() -> None:
    """Integer-valued, so that every FP32 sum is exact in any order and only the rounding to BF16 is left to compare."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, w, b = (rng.integers(-60, 61, shape).astype(np.float32) for shape in ((16, 8), (8, 4), (4,)))
    model = weighted(LINEAR, {"w": w, "b": b})
    sites(model, EmulateBf16())
    with OrtCpuRunner(model) as runner:
        got = runner.run({"x": x})["y"]
    half = [torch.from_numpy(a).to(torch.bfloat16) for a in (x, w, b)]
    want = torch.relu(half[0] @ half[1] + half[2]).float().numpy()
    assert np.array_equal(got, want)
    assert not np.array_equal(got, np.maximum(x @ w + b, 0)), "nothing was rounded"


@pytest.mark.parametrize("op", EXACT)
def test_exact_operators_do_not_compute(op: str) -> None:
    """What is not rounded must return only its inputs' values: no schema of these may be missing."""
    assert onnx.defs.has(op), op
    assert op not in {"Add", "Mul", "MatMul", "Conv", "Gemm", "Softmax", "Cast", "AveragePool", "Resize", "CumSum"}


def test_weights_that_overflow_stay() -> None:
    w = np.full((8, 4), np.finfo(np.float32).max, np.float32)
    model = weighted(LINEAR, {"w": w, "b": normal(4)})
    [site] = sites(model, EmulateBf16())
    assert site.reason == "w overflows BF16: it holds 3.40282e+38"
    assert model.graph.initializers["w"].dtype == ir.DataType.FLOAT


REFUSED = {
    "weight is DOUBLE, not FLOAT": (
        "g (double[m, 8] x, double[8, 4] w) => (double[m, 4] y) { y = MatMul(x, w) }", normal(8, 4).astype(np.float64)),
    "the node is in a subgraph": (
        """g (bool c, double[8, 8] x, double[8, 8] w) => (double[8, 8] y) {
            y = If(c) <then_branch = t () => (double[8, 8] a) { a = MatMul(x, w) },
                       else_branch = e () => (double[8, 8] b) { b = Identity(x) }>
        }""", normal(8, 8).astype(np.float64)),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_each_refusal_says_why_and_changes_nothing(reason: str) -> None:
    body, w = REFUSED[reason]
    model = weighted(body, {"w": w})
    before = serialized(model)
    (record,) = pipeline.run(model, [EmulateBf16()])
    assert not record.modified
    assert [s.reason for s in record.sites] == [reason]
    assert serialized(model) == before


def test_a_scalar_is_rounded_in_place_and_stays_finite() -> None:
    body = "g (float[m, 4] x, float[1] s) => (float[m, 4] y) { y = Mul(x, s) }"
    model = weighted(body, {"s": np.array([np.finfo(np.float32).min], np.float32)})
    sites(model, EmulateBf16())
    scale = model.graph.initializers["s"].const_value
    assert scale is not None
    assert scale.dtype == ir.DataType.FLOAT
    assert scale.numpy().tolist() == [-float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)]  # type: ignore[no-untyped-call]


def test_an_input_that_no_node_reads_and_an_untyped_node() -> None:
    body = "g (float[m, 4] x, float[m, 4] unused) => (float[m, 4] y) { y = com.microsoft.Mystery(x) }"
    model = weighted(body, {}, WITH_CONTRIB)
    sites(model, EmulateBf16())
    assert [n.op_type for n in model.graph] == ["Cast", "Cast", "Mystery", "Cast", "Cast"]


OPS = {"Add": 2, "Mul": 2, "Relu": 1, "Transpose": 1, "Sub": 2, "Max": 2, "Neg": 1}
NUMPY: dict[str, Callable[..., Array]] = {
    "Add": np.add, "Mul": np.multiply, "Relu": lambda a: np.maximum(a, 0), "Transpose": np.transpose,
    "Sub": np.subtract, "Max": np.maximum, "Neg": np.negative,
}  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True)
@given(ops=st.lists(st.sampled_from(sorted(OPS)), min_size=1, max_size=8), data=st.data())
def test_any_elementwise_graph_bit_for_bit(ops: list[str], data: st.DataObject) -> None:
    w, x = normal(4, 4), normal(4, 4, seed=1)
    values = {"x": bf16(x), "w": bf16(w)}
    lines = []
    for i, op in enumerate(ops):
        read = [data.draw(st.sampled_from(sorted(values))) for _ in range(OPS[op])]
        lines.append(f"v{i} = {op}({', '.join(read)})")
        values[f"v{i}"] = bf16(NUMPY[op](*(values[r] for r in read)))
    last = f"v{len(ops) - 1}"
    model = weighted(f"g (float[4, 4] x, float[4, 4] w) => (float[4, 4] {last}) {{ {' '.join(lines)} }}", {"w": w})
    interface, unchanged = Interface.of(model), serialized(model)
    (record,) = pipeline.run(model, [EmulateBf16()])
    assert record.modified == (serialized(model) != unchanged)
    assert Interface.of(model) == interface
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    (again,) = pipeline.run(model, [EmulateBf16()])
    assert not again.modified
    with OrtCpuRunner(model) as runner:
        assert np.array_equal(runner.run({"x": x})[last], values[last])


def test_digits_cnn() -> None:
    recipe = digits_cnn.recipe()
    model, want = (export(recipe, opset=20, ir_version=10).model for _ in range(2))
    assert recipe.evaluation is not None
    feeds = next(iter(recipe.evaluation.batches()))
    reported = sites(model, EmulateBf16())
    assert all(s.applied for s in reported)
    assert len(reported) == sum(n.op_type in ("Conv", "Gemm", "MatMul") for n in want.graph)
    before, after = compute(want, feeds)["scores"], compute(model, feeds)["scores"]
    # Rounding to 8 bits: relative noise 2^-8 / sqrt(3) per tensor, 53 dB each; some dozen of them cost 15 dB at most.
    assert 30 < sqnr(before, after) < 60
    assert (before.argmax(axis=1) == after.argmax(axis=1)).mean() > 0.98
