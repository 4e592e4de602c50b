"""Projections of queries, keys and values that attention computes in one product."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from dlc.passes.fuse_attention import FuseAttention
from dlc.passes.weighted import weights_of
from dlc.tolerance import EPS32, distance
from tests.passes.attention_graphs import (
    SIZES,
    UNMASKED,
    feeds,
)
from tests.passes.texts import compute, expected, sites, text
from tests.passes.weights import weighted

PROJECTED = f"""g (float[b, s, 5] x, float[5, 6] wq, float[5, 6] wk, float[5, 6] wv, float[6] bq, float[6] bk,
    float[6] bv) => (float[b, s, 6] y) <{SIZES}> {{
    qp = MatMul(x, wq)
    q = Add(qp, bq)
    kp = MatMul(x, wk)
    k = Add(bk, kp)
    vp = MatMul(x, wv)
    v = Add(vp, bv)
    {UNMASKED[UNMASKED.index("q4 =") :]}"""


def projected(body: str) -> ir.Model:
    rng = np.random.default_rng(1)
    shapes = {"w": (5, 6), "b": (6,)}
    weights = {k: rng.standard_normal(shapes[k[0]]).astype(np.float32) for k in ("wq", "wk", "wv", "bq", "bk", "bv")}
    model = weighted(body.replace("mask = Where(seen, zero, low)", ""), weights)
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True))


def test_golden_packed() -> None:
    model = projected(PROJECTED)
    assert [s.reason for s in sites(model, FuseAttention())] == [None]
    assert text(model) == expected("""
        q+k+v.product = MatMul(x, q+k+v.weight)
        q+k+v = Add(q+k+v.product, q+k+v.bias)
        q+k+v.0, q+k+v.1, q+k+v.2 = Split(q+k+v, q+k+v.sizes)
        y = Attention(q+k+v.0, q+k+v.1, q+k+v.2)
        zero: []
        low: []
        q+k+v.weight: [5,18]
        q+k+v.bias: [18]
        q+k+v.sizes: [3]
    """)


@pytest.mark.parametrize("case", ["pack=False", "another reader", "another input", "one bias missing"])
def test_projections_that_are_not_packed(case: str) -> None:
    body = {
        "pack=False": PROJECTED,
        "another reader": PROJECTED.replace("[b, s, 6] y)", "[b, s, 6] y, float[b, s, 6] k)"),
        "another input": PROJECTED.replace("kp = MatMul(x", "z = Neg(x)\n kp = MatMul(z"),
        "one bias missing": PROJECTED.replace("v = Add(vp, bv)", "v = Neg(vp)"),
    }[case]
    model = projected(body)
    assert [s.reason for s in sites(model, FuseAttention(pack=case != "pack=False"))] == [None]
    assert "Split" not in [n.op_type for n in model.graph]
    assert len([n for n in model.graph if weights_of(n)]) == 3


def test_packing_changes_no_number() -> None:
    model = projected(PROJECTED)
    given = feeds(model, np.random.default_rng(0))
    before = compute(model, given)
    sites(model, FuseAttention())
    # Softmax of sums of 6 products, on sums of 5; the kernel takes its exponentials in another order.
    assert distance(compute(model, given), before)[0] <= 4 * (5 + 6 + 5 + 8) * EPS32


def test_a_mask_of_one_row_keeps_no_projection_alive() -> None:
    """Its rows are counted in what was packed, not in the projection that was there before."""
    body = PROJECTED.replace("float[6] bv)", "float[6] bv, bool[b, 1, 1, s] seen)").replace(
        "Softmax(scaled)", "Softmax(scores)").replace(
        "p = Softmax", "shown = Where(seen, zero, low)\n scores = Add(scaled, shown)\n p = Softmax")  # fmt: skip
    model = projected(body)
    assert [s.reason for s in sites(model, FuseAttention())] == [None]
    assert len([n for n in model.graph if weights_of(n)]) == 1
    assert [n.inputs[0].name for n in model.graph if n.op_type == "Shape" and n.inputs[0]] == ["q+k+v.0"]
