"""Legal graphs that look like what a rewrite expects and are not: their numbers, shapes and types must survive."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from dlc.passes.base import Pass, clone
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.fold_batch_norm import FoldBatchNorm
from dlc.passes.fuse_gelu import FuseGelu
from dlc.passes.quantize_weights import QuantizeWeights
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.tolerance import distance, reassociation
from dlc.types import Feeds, Outputs

HEAD = '<ir_version: 10, opset_import: ["": 20]>'
ROWS = ", ".join(map(str, range(4)))
W = ", ".join(map(str, np.random.default_rng(0).normal(size=32).round(3)))


def outputs(model: ir.Model, feeds: Feeds) -> Outputs:
    with OrtCpuRunner(model, SessionConfig(graph_optimization="none")) as runner:
        return runner.run(feeds)


def unchanged(text: str, each: Pass, feeds: Feeds, bound: float | None = None) -> None:
    before = ir.from_onnx_text(HEAD + text)
    after = clone(before)
    each(after)
    apart, where = distance(outputs(after, feeds), outputs(before, feeds))
    assert apart <= (reassociation(before) if bound is None else bound), where


X48 = {"x": np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)}

CANONICAL = {
    "ScatterND that adds": f"""g (float[4, 8] x) => (float[4, 8] y) <int64[4, 1] i = {{{ROWS}}}>
        {{ a = Sigmoid(x)  y = ScatterND <reduction = "add"> (x, i, a) }}""",
    "Relu of a Clip below zero": """g (float[4, 8] x) => (float[4, 8] y) <float lo = {-3}, float hi = {-1}>
        { a = Clip(x, lo, hi)  y = Relu(a) }""",
    "Clips that do not overlap": """g (float[4, 8] x) => (float[4, 8] y)
        <float a = {0}, float b = {1}, float c = {2}, float d = {3}> { t = Clip(x, a, b)  y = Clip(t, c, d) }""",
    "Min and Max that add an axis": """g (float[4, 8] x) => (float[1, 4, 8] y) <float[1, 1, 1] a = {1}, float b = {0}>
        { t = Min(x, a)  y = Max(t, b) }""",
}


@pytest.mark.parametrize("case", CANONICAL)
def test_canonicalize(case: str) -> None:
    unchanged(CANONICAL[case], Canonicalize(), X48, bound=0.0)


MISFOLDED: dict[str, tuple[str, Feeds]] = {
    "Resize that aligns corners": ("""g (float[1, 1, 1, 1] x) => (float[1, 1, h, w] y)
        <float[1, 1, 2, 4] c = {1, 2, 3, 4, 5, 6, 7, 8}, float[4] by = {1, 1, 0.6, 0.6}>
        { r = Resize <coordinate_transformation_mode = "align_corners", mode = "linear"> (c, , by)  y = Add(x, r) }""",
        {"x": np.zeros((1, 1, 1, 1), np.float32)}),
    "chunks of a size that is fed": ("""g (float[4, 8] x, int64 size) => (float[4, 8] y)
        { s = SplitToSequence <axis = 0> (x, size)  y = ConcatFromSequence <axis = 0> (s) }""",
        {**X48, "size": np.array(2)}),
    "zeros in a target, after an unknown rank": ("""g (float[a, b, 3, 4] x, int64[k] t) => (float[n, m] y)
        <int64[4] split = {0, 0, -1, 4}, int64[2] flat = {-1, 8}>
        { r = Reshape(x, t)  s = Reshape(r, split)  u = Transpose <perm = [0, 2, 1, 3]> (s)  z = Shape(u)
          w = Reshape(u, z)  h = Neg(w)  y = Reshape(h, flat) }""",
        {"x": np.zeros((2, 5, 3, 4), np.float32), "t": np.array([2, 5, 12])}),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFOLDED)
def test_what_folding_would_change_is_left(case: str) -> None:
    text, feeds = MISFOLDED[case]
    unchanged(text, Canonicalize(), feeds, bound=0.0)


def test_a_cast_that_does_not_saturate_stays_so() -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[2] x) => (float8e4m3fn[2] y)
    <float8e4m3fn[1] like = {0}> { y = CastLike <saturate = 0> (x, like) }"""
    model = ir.from_onnx_text(text)
    Canonicalize()(model)
    assert model.graph[0].attributes.get_int("saturate", 1) == 0


def test_a_target_of_a_reshape_is_not_written_down_where_zero_would_be_a_copy() -> None:
    text = """<ir_version: 8, opset_import: ["": 13]> g (float[?, 8] x) => (float[?, 8] y)
    <int64[1] zero = {0}, int64[1] one = {1}, int64[1] width = {8}>
    { s = Shape(x)  n = Slice(s, zero, one, zero)  t = Concat <axis = 0> (n, width)
      z = Neg(x)  r = Reshape(z, t)  y = Tanh(r) }"""
    before = ir.from_onnx_text(text)
    after = clone(before)
    Canonicalize()(after)
    feeds = {"x": np.arange(16, dtype=np.float32).reshape(2, 8)}
    assert distance(outputs(after, feeds), outputs(before, feeds)) == (0.0, "")


def test_padding_of_an_integer_convolution_stays_zero_and_not_the_zero_point() -> None:
    text = f"""g (float[1, 2, 4, 4] x) => (int32[1, 1, 3, 3] y)
    <int64[8] p = {{0, 0, 1, 1, 0, 0, 1, 1}}, int8[1, 2, 4, 4] w = {{{", ".join(["1"] * 32)}}}>
    {{ q, s, z = DynamicQuantizeLinear(x)  t = Pad(q, p)  y = ConvInteger(t, w, z) }}"""
    x = np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype(np.float32)
    unchanged(text, Canonicalize(), {"x": x}, bound=0.0)


def test_what_is_drawn_at_random_is_neither_folded_nor_merged() -> None:
    text = f"""g (float[4, 8] x) => (float[4, 8] y) <float[4, 8] p = {{{", ".join(["0.5"] * 32)}}}>
    {{ a = Bernoulli(p)  b = Bernoulli(p)  t = Mul(x, a)  y = Mul(t, b) }}"""
    model = ir.from_onnx_text(HEAD + text)
    Canonicalize()(model)
    assert [n.op_type for n in model.graph].count("Bernoulli") == 2


def test_a_reader_in_a_branch_is_not_the_only_user() -> None:
    text = """g (float[4, 8] x, bool c) => (float[4, 8] y) <float half = {0.5}, float one = {1}, float r = {1.4142135}>
    { d = Div(x, r)  e = Erf(d)
      y = If (c) <then_branch = t () => (float[4, 8] u) { p = Add(e, one)  m = Mul(x, p)  u = Mul(m, half) },
                  else_branch = f () => (float[4, 8] v) { v = Relu(e) }> }"""
    unchanged(text, FuseGelu(), {**X48, "c": np.array(True)}, bound=0.0)


def test_a_constant_that_adds_an_axis_is_no_scalar() -> None:
    text = """g (float[4, 8] x) => (float[1, 4, 8] y)
    <float[1, 1, 1] r = {1.4142135}, float one = {1}, float half = {0.5}>
    { d = Div(x, r)  e = Erf(d)  p = Add(e, one)  m = Mul(x, p)  y = Mul(m, half) }"""
    unchanged(text, FuseGelu(), X48, bound=0.0)


def test_a_new_weight_takes_no_name_that_an_input_has() -> None:
    text = """g (float[1, 1, 3, 3] x, float[1, 1, 3, 3] conv.weight) => (float[1, 1, 3, 3] y)
    <float[1, 1, 1, 1] w = {2}, float[1] s = {3}, float[1] b = {1}, float[1] m = {0}, float[1] v = {1}>
    { c = Conv(x, w)  n = BatchNormalization(c, s, b, m, v)  y = Add(n, conv.weight) }""".replace(
        "conv.weight", "taken"
    )
    model = ir.from_onnx_text(HEAD + text)
    next(iter(model.graph)).name = "conv"
    model.graph.inputs[1].name = "conv.weight"
    FoldBatchNorm()(model)
    assert [v.name for v in model.graph.inputs] == ["x", "conv.weight"]
    assert "conv.weight" not in model.graph.initializers


def test_a_bias_for_each_row_is_refused() -> None:
    text = f"""g (float[4, 8] x) => (float[4, 4] y) <float[8, 4] w = {{{W}}}, float[4, 1] c = {{10, 20, 30, 40}}>
    {{ y = Gemm(x, w, c) }}"""
    model = ir.from_onnx_text(HEAD + text)
    before = outputs(clone(model), X48)
    QuantizeWeights(min_elements=1)(model)
    apart, _ = distance(outputs(model, X48), before)
    assert apart < 0.1  # 4-bit rounding of the products; a bias on the wrong axis is apart by its whole size
