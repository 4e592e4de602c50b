from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.interface import Interface
from dlc.passes.fuse_attention import FuseAttention
from dlc.passes.raise_opset import raise_opset
from dlc.tolerance import distance
from tests.passes.attention_graphs import (
    BODY,
    BOUND,
    DYNAMO,
    FORMS,
    QKV,
    SIZES,
    WAYS,
    attention,
    feeds,
)
from tests.passes.texts import compute, expected, serialized, sites, text


def test_golden() -> None:
    model = attention(DYNAMO)
    assert [s.reason for s in sites(model, FuseAttention())] == [None]
    assert text(model) == expected("""
        mask = Where(seen, zero, low)
        y = Attention(q, k, v, mask)
        zero: []
        low: []
    """)
    node = model.graph.node(1)
    assert node.attributes.get_float("scale", 0.0) == float(np.float32(0.75 * 0.75))
    assert (model.opset_imports[""], model.ir_version) == (23, 11)


def test_golden_below_opset_23() -> None:
    model = attention(BODY)
    assert [s.reason for s in sites(model, FuseAttention(max_opset=22))] == [None]
    assert text(model) == expected("""
        mask = Where(seen, zero, low)
        y = MultiHeadAttention(q, k, v, , , mask)
        zero: []
        low: []
    """)
    assert dict(model.opset_imports) == {"": 20, "com.microsoft": 1}


def test_golden_products() -> None:
    model = attention(DYNAMO)
    assert [s.reason for s in sites(model, FuseAttention(products=True))] == [None]
    assert text(model) == expected("""
        mask = Where(seen, zero, low)
        q.split = Reshape(q, q.heads)
        q.heads_1 = Transpose(q.split)
        k.split = Reshape(k, k.heads)
        k.heads_1 = Transpose(k.split)
        v.split = Reshape(v, v.heads)
        v.heads_1 = Transpose(v.split)
        product = FusedMatMul(q.heads_1, k.heads_1)
        scores = Add(product, mask)
        p = Softmax(scores)
        bad = IsNaN(p)
        kept = Where(bad, zero, p)
        o4 = MatMul(kept, v.heads_1)
        ot = Transpose(o4)
        y = Reshape(ot, merge)
        merge: [3]
        zero: []
        low: []
        q.heads: [4]
        k.heads: [4]
        v.heads: [4]
    """)
    fused = model.graph.node(7)
    assert fused.attributes.get_float("alpha", 0.0) == float(np.float32(0.75 * 0.75))
    assert fused.attributes.get_int("transB", 0) == 1


def test_an_operator_that_opset_21_redefines_keeps_the_opset() -> None:
    model = attention(BODY)
    x = model.graph.inputs[0]
    model.graph.insert_before(model.graph.node(0), ir.node("GroupNormalization", [x, x, x], {"num_groups": 1}))
    before = model.opset_imports[""]
    assert not raise_opset(model, 23)
    assert model.opset_imports[""] == before


THREE_AXES = f"""g ({QKV}) => (float[b, 5, 6] y) <{SIZES}, int64[3] rows = {{-1, 5, 3}},
    int64[3] columns = {{-1, 3, 5}}, int64[4] back = {{-1, 2, 5, 3}}> {{
    q4 = Reshape(q, split)
    qt = Transpose<perm = [0, 2, 1, 3]>(q4)
    qf = Reshape(qt, rows)
    k4 = Reshape(k, split)
    kt = Transpose<perm = [0, 2, 3, 1]>(k4)
    kf = Reshape(kt, columns)
    v4 = Reshape(v, split)
    vt = Transpose<perm = [0, 2, 1, 3]>(v4)
    vf = Reshape(vt, rows)
    product = MatMul(qf, kf)
    p = Softmax(product)
    o3 = MatMul(p, vf)
    o4 = Reshape(o3, back)
    ot = Transpose<perm = [0, 2, 1, 3]>(o4)
    y = Reshape(ot, merge)
}}""".replace("b, s,", "b, 5,")


def test_three_axes_with_the_batch_first() -> None:
    model = attention(THREE_AXES)
    before, given_feeds = serialized(model), feeds(model, np.random.default_rng(0))
    reason = "batch and heads are in one axis, and the batch comes first"
    assert [s.reason for s in sites(model, FuseAttention(products=True))] == [reason]
    assert serialized(model) == before
    outputs = compute(model, given_feeds)
    assert [s.reason for s in sites(model, FuseAttention())] == [None]
    assert [n.op_type for n in model.graph] == ["Attention"]
    assert distance(compute(model, given_feeds), outputs)[0] <= BOUND


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(FORMS)), st.sampled_from(WAYS), st.integers(1, 3), st.integers(1, 7), st.integers(0, 1 << 16)
)
def test_properties(form: str, each: FuseAttention, batch: int, length: int, seed: int) -> None:
    model = attention(FORMS[form])
    given_feeds = feeds(model, np.random.default_rng(seed), batch, length)
    before, interface = compute(model, given_feeds), Interface.of(model)
    (record,) = pipeline.run(model, [each])
    assert [s.reason for s in record.sites] == [None]
    assert Interface.of(model) == interface
    if each == WAYS[0]:
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert distance(compute(model, given_feeds), before)[0] <= BOUND
    assert not pipeline.run(model, [each])[0].modified
