from __future__ import annotations

from typing import Any

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
from dlc.passes.cast_fp16 import CONTRIB, FLOAT16, CastFp16, narrowed
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.types import Array
from tests.passes.texts import compute, expected, serialized, sites, text
from tests.passes.weights import WITH_CONTRIB, normal, sqnr, weighted

LINEAR = """g (float[m, 8] x, float[8, 4] w, float[4] b) => (float[m, 4] y) {
    h = MatMul(x, w) s = Add(h, b) y = Relu(s)
}"""
HALF = 2.0**-11
"""Relative error of rounding to FP16."""


def linear() -> ir.Model:
    return weighted(LINEAR, {"w": normal(8, 4), "b": normal(4)})


def test_golden() -> None:
    model = linear()
    assert [(s.node, s.reason) for s in sites(model, CastFp16())] == [("node_h", None)]
    assert text(model) == expected("""
        x_fp16 = Cast(x)
        h = MatMul(x_fp16, w_fp16)
        s = Add(h, b_fp16)
        y_fp16 = Relu(s)
        y = Cast(y_fp16)
        w_fp16: [8,4]
        b_fp16: [4]
    """)
    assert all(v.dtype == FLOAT16 for v in model.graph.initializers.values())
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_golden_blocked_node_between_casts() -> None:
    body = "g (float[8, 8] x, float[8, 8] w) => (float[8, 8] y) { h = MatMul(x, w) e = Exp(h) y = MatMul(e, w) }"
    model = weighted(body, {"w": normal(8, 8)})
    sites(model, CastFp16())
    assert text(model) == expected("""
        x_fp16 = Cast(x)
        h = MatMul(x_fp16, w_fp16)
        h_fp32 = Cast(h)
        e = Exp(h_fp32)
        e_fp16 = Cast(e)
        y_fp16 = MatMul(e_fp16, w_fp16)
        y = Cast(y_fp16)
        w_fp16: [8,8]
    """)


def test_what_the_schema_fixes_stays_fp32() -> None:
    body = """g (float[1, 1, 2, 2] x, float[1, 1, 1, 1] w, float[4] f) => (float[1, 1, 4, 4] y) {
        h = Conv(x, w) y = Resize(h, , f)
    }"""
    model = weighted(body, {"w": np.full((1, 1, 1, 1), 2, np.float32), "f": np.array([1, 1, 2, 2], np.float32)})
    sites(model, CastFp16())
    resize = next(n for n in model.graph if n.op_type == "Resize")
    assert [v.dtype and v.dtype.name for v in resize.inputs if v] == ["FLOAT16", "FLOAT"]
    x = normal(1, 1, 2, 2)
    got = compute(model, {"x": x})["y"]
    want = (2 * x).repeat(2, axis=2).repeat(2, axis=3)
    assert (np.abs(got - want) <= HALF * np.abs(want)).all()  # x is rounded, or not at all; 2 * x is exact


def test_a_variance_tail_stays_fp32() -> None:
    body = """g (float[m, 8] x, float[1] two, float[1] eps, float[8, 8] w) => (float[m, 8] y) {
        h = MatMul(x, w) p = Pow(h, two) v = ReduceMean<keepdims = 1>(p) e = Add(v, eps) s = Sqrt(e) y = Div(h, s)
    }"""
    weights = {"w": normal(8, 8), "two": np.array([2], np.float32), "eps": np.array([1e-12], np.float32)}
    model = weighted(body, weights)
    sites(model, CastFp16())
    kept = {n.op_type for n in model.graph if n.op_type != "Cast" and n.outputs[0].dtype != FLOAT16}
    assert kept == {"Pow", "ReduceMean", "Add", "Sqrt"}
    got = compute(model, {"x": 100 * normal(3, 8)})["y"]
    # Squares near 10^5 overflow FP16; in FP32 the rows keep norm 1.
    assert np.isfinite(got).all()


def test_mask_fill_becomes_the_largest_finite_value() -> None:
    body = (
        """g (bool[m, 4] c, float[m, 4] x, float[1] fill) => (float[m, 4] y) { h = Where(c, x, fill) y = Softmax(h) }"""
    )
    model = weighted(body, {"fill": np.array([np.finfo(np.float32).min], np.float32)})
    sites(model, CastFp16())
    hidden = np.zeros((1, 4), bool)
    assert compute(model, {"c": hidden, "x": normal(1, 4)})["y"].tolist() == [[0.25] * 4]
    assert narrowed(np.array([np.inf, -1e9])).tolist() == [np.inf, -65504]


REFUSED: dict[str, tuple[str, Array, dict[str, Any]]] = {
    "w overflows FP16: it holds 70000": ("MatMul(x, w)", np.full((8, 8), 70000, np.float32), {}),
    "w is too small for FP16: rounding would change it by": ("MatMul(x, w)", 1e-8 * normal(8, 8), {}),
    "MatMul is blocked by name": ("MatMul(x, w)", normal(8, 8), {"blocked": ("MatMul",)}),
    "node_y is blocked by name": ("MatMul(x, w)", normal(8, 8), {"blocked": ("node_y",)}),
    "Pow is blocked: its range exceeds FP16": ("Pow(x, w)", normal(8, 8), {}),
    "weight is not FLOAT": ("MatMul(x, w)", normal(8, 8).astype(np.float64), {}),
    "no schema of com.microsoft::FusedGemm says that it takes FP16": (
        "com.microsoft.FusedGemm(x, w)", normal(8, 8), {}),
    "the type of 'y' is not a known tensor type": ("com.microsoft.Mystery(x, w)", normal(8, 8), {}),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_each_refusal_says_why_and_changes_nothing(reason: str) -> None:
    expression, w, options = REFUSED[reason]
    kind = "double" if w.dtype == np.float64 else "float"
    body = f"g ({kind}[8, 8] x, {kind}[8, 8] w) => ({kind}[8, 8] y) {{ y = {expression} }}"
    model = weighted(body, {"w": w}, WITH_CONTRIB)
    if "Mystery" in expression:
        model.graph.outputs[0].type = None
    before = serialized(model)
    (record,) = pipeline.run(model, [CastFp16(**options)])
    assert not record.modified
    assert [s.reason is not None and s.reason.startswith(reason) for s in record.sites] == [True]
    assert serialized(model) == before


def test_no_fp16_form() -> None:
    body = "g (float[8, 8] x, float[1] s, uint8[1] z) => (uint8[8, 8] y) { y = QuantizeLinear(x, s, z) }"
    header = '<ir_version: 10, opset_import: ["" : 13]>'
    model = weighted(body, {"s": np.array([0.1], np.float32), "z": np.array([3], np.uint8)}, header)
    before = serialized(model)
    assert sites(model, CastFp16()) == ()
    assert serialized(model) == before


def test_subgraphs_keep_fp32_and_read_fp32() -> None:
    body = """g (bool c, float[8, 8] x, float[8, 8] w) => (float[8, 8] y) {
        h = MatMul(x, w)
        y = If(c) <then_branch = t () => (float[8, 8] a) { a = MatMul(h, w) },
                   else_branch = e () => (float[8, 8] b) { b = Identity(h) }>
    }"""
    model = weighted(body, {"w": normal(8, 8)})
    got = [(s.node, s.reason) for s in sites(model, CastFp16())]
    assert got == [("node_h", None), ("node_a", "the node is in a subgraph")]
    x = normal(8, 8)
    want = weighted(body, {"w": normal(8, 8)})
    for c in (True, False):
        feeds = {"c": np.array(c), "x": x}
        # Three roundings of relative size 2^-11, in the root of a sum of squares: more than 60 dB.
        assert sqnr(compute(want, feeds)["y"], compute(model, feeds)["y"]) > 55


def test_without_keep_io_types_the_interface_is_fp16() -> None:
    model = linear()
    CastFp16(keep_io_types=False)(model)
    assert [t.dtype for t in (*Interface.of(model).inputs, *Interface.of(model).outputs)] == ["float16", "float16"]
    assert "Cast" not in {n.op_type for n in model.graph}
    with OrtCpuRunner(model) as runner:
        assert runner.run({"x": normal(2, 8).astype(np.float16)})["y"].dtype == np.float16


def test_contrib_operators_take_fp16_in_onnxruntime() -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    schemas = {s.name: s for s in get_all_operator_schema() if s.domain == "com.microsoft"}
    for op in CONTRIB:
        formals = [*schemas[op].inputs, *schemas[op].outputs]
        admits = {c.type_param_str: c.allowed_type_strs for c in schemas[op].type_constraints}
        floats = [f.typeStr for f in formals if "tensor(float)" in admits.get(f.typeStr, [f.typeStr])]
        kinds = {t for t in floats if "tensor(float16)" not in admits.get(t, [])}
        # SkipLayerNormalization's statistics are FP32 in all types; they are outputs that an inference graph lacks.
        assert kinds <= ({"U"} if op == "SkipLayerNormalization" else set())


OPS = {"Add": 2, "Mul": 2, "Relu": 1, "Exp": 1, "MatMul": 2, "Transpose": 1, "Sigmoid": 1, "Softmax": 1}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(ops=st.lists(st.sampled_from(sorted(OPS)), min_size=1, max_size=8), data=st.data())
def test_any_graph(ops: list[str], data: st.DataObject) -> None:
    names, lines = ["x", "w"], []
    for i, op in enumerate(ops):
        read = [data.draw(st.sampled_from(names)) for _ in range(OPS[op])]
        lines.append(f"v{i} = {op}({', '.join(read)})")
        names.append(f"v{i}")
    body = f"g (float[4, 4] x, float[4, 4] w) => (float[4, 4] v{len(ops) - 1}) {{ {' '.join(lines)} }}"
    weights = {"w": normal(4, 4) / 4}
    model, want = weighted(body, weights), weighted(body, weights)
    interface = Interface.of(model)
    unchanged = serialized(model)
    (record,) = pipeline.run(model, [CastFp16()])
    assert Interface.of(model) == interface
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert record.modified == (serialized(model) != unchanged)
    (again,) = pipeline.run(model, [CastFp16()])
    assert not again.modified
    feeds = {"x": normal(4, 4, seed=1) / 4}
    before, after = next(iter(compute(want, feeds).values())), next(iter(compute(model, feeds).values()))
    if np.isfinite(before).all() and np.abs(before).max() < 100 and np.abs(before).max() > 1e-2:
        assert np.isfinite(after).all()


def test_digits_cnn() -> None:
    recipe = digits_cnn.recipe()
    model, want = (export(recipe, opset=20, ir_version=10).model for _ in range(2))
    assert recipe.evaluation is not None
    feeds = next(iter(recipe.evaluation.batches()))
    interface = Interface.of(model)
    reported = sites(model, CastFp16())
    assert len(reported) == sum(n.op_type in ("Conv", "Gemm", "MatMul") for n in want.graph)
    assert all(s.applied for s in reported)
    assert Interface.of(model) == interface
    before, after = compute(want, feeds)["scores"], compute(model, feeds)["scores"]
    # Every tensor is rounded once: relative noise 2^-11 / sqrt(3) each, a few dozen of them: 71 dB - 10 log10(36).
    assert sqnr(before, after) > 55
    assert np.array_equal(before.argmax(axis=1), after.argmax(axis=1))
    size = [sum(v.const_value.nbytes for v in m.graph.initializers.values() if v.const_value) for m in (want, model)]
    assert size[1] < 0.52 * size[0]
