from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.interface import Interface
from dlc.passes.fuse_attention import FuseAttention
from dlc.passes.raise_opset import raise_opset
from dlc.passes.weighted import weights_of
from dlc.tolerance import EPS32, distance, reassociation
from dlc.types import Array, Feeds
from tests.passes.texts import compute, expected, graph, serialized, sites, text
from tests.passes.weights import weighted

SIZES = """int64[4] split = {0, 0, 2, 3}, int64[3] merge = {0, 0, 6}, float scale = {0.75}, float zero = {0},
    float low = {-10000}"""
QKV = "float[b, s, 6] q, float[b, s, 6] k, float[b, s, 6] v"
BODY = f"""g ({QKV}, bool[b, 1, s, s] seen) => (float[b, s, 6] y) <{SIZES}> {{
    q4 = Reshape(q, split)
    qt = Transpose<perm = [0, 2, 1, 3]>(q4)
    k4 = Reshape(k, split)
    kt = Transpose<perm = [0, 2, 3, 1]>(k4)
    v4 = Reshape(v, split)
    vt = Transpose<perm = [0, 2, 1, 3]>(v4)
    mask = Where(seen, zero, low)
    product = MatMul(qt, kt)
    scaled = Mul(product, scale)
    scores = Add(scaled, mask)
    p = Softmax(scores)
    o4 = MatMul(p, vt)
    ot = Transpose<perm = [0, 2, 1, 3]>(o4)
    y = Reshape(ot, merge)
}}"""
GUARD = """bad = IsNaN(p)
    kept = Where(bad, zero, p)
    o4 = MatMul(kept, vt)"""
GUARDED = BODY.replace("o4 = MatMul(p, vt)", GUARD)
UNMASKED = BODY.replace("scores = Add(scaled, mask)", "").replace("Softmax(scores)", "Softmax(scaled)")
# What torch.onnx.export(dynamo=True) writes: keys are split, then swapped by way of three axes; both sides are scaled.
DYNAMO = (
    GUARDED.replace("kt = Transpose<perm = [0, 2, 3, 1]>(k4)", """ks = Transpose<perm = [0, 2, 1, 3]>(k4)
    shape = Shape(ks)
    heads = Slice(shape, lowest, second)
    length = Slice(shape, second, last)
    size = Slice(shape, last, highest)
    flat = Concat<axis = 0>(last, length, size)
    k3 = Reshape(ks, flat)
    k3t = Transpose<perm = [0, 2, 1]>(k3)
    back = Concat<axis = 0>(heads, size, length)
    ku = Reshape(k3t, back)
    qs = Mul(qt, scale)
    kt = Mul(ku, scale)""")
    .replace("product = MatMul(qt, kt)", "product = MatMul(qs, kt)")
    .replace("scaled = Mul(product, scale)", "").replace("Add(scaled, mask)", "Add(product, mask)")
    .replace("float low", """int64[1] last = {-1}, int64[1] second = {-2}, int64[1] lowest = {-9223372036854775807},
    int64[1] highest = {9223372036854775807}, float low""")
)  # fmt: skip
SWAPPED = BODY.replace(
    "kt = Transpose<perm = [0, 2, 3, 1]>(k4)",
    """ks = Transpose<perm = [0, 2, 1, 3]>(k4)
    kt = Transpose<perm = [0, 1, 3, 2]>(ks)""",
)
DIVIDED = BODY.replace("scaled = Mul(product, scale)", "scaled = Div(product, scale)")
ONE_ROW = BODY.replace("bool[b, 1, s, s] seen", "bool[b, 1, 1, s] seen")
CHOSEN = UNMASKED.replace("mask = Where(seen, zero, low)", "").replace(
    "scaled = Mul(product, scale)", "scaled = Mul(product, scale)\n    chosen = Where(seen, scaled, low)"
).replace("Softmax(scaled)", "Softmax(chosen)").replace("{-10000}", "{-3.4028234663852886e+38}")  # fmt: skip
FORMS = {"plain": BODY, "guarded": GUARDED, "unmasked": UNMASKED, "dynamo": DYNAMO, "swapped": SWAPPED,
         "divided": DIVIDED, "one row": ONE_ROW, "chosen": CHOSEN}  # fmt: skip


def attention(body: str) -> ir.Model:
    """Parse, with the types and shapes that an exporter annotates."""
    model = graph(body)
    inferred = onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True)
    return ir.from_proto(inferred)


def feeds(model: ir.Model, rng: np.random.Generator, batch: int = 2, length: int = 5) -> Feeds:
    found: dict[str, Array] = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        shape = [d if isinstance(d, int) else {"b": batch, "s": length}[str(d)] for d in value.shape]
        array = rng.standard_normal(shape)
        found[str(value.name)] = array > 0 if value.dtype == ir.DataType.BOOL else array.astype(np.float32)
    return found


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


def test_a_choice_between_scores_and_a_lowest_number_is_a_mask() -> None:
    model = attention(CHOSEN)
    assert [s.reason for s in sites(model, FuseAttention())] == [None]
    assert text(model) == expected("""
        seen.mask = Where(seen, mask.zero, mask.lowest)
        y = Attention(q, k, v, seen.mask)
        zero: []
        mask.lowest: []
        mask.zero: []
    """)


@pytest.mark.parametrize("lowest", ["-10000", "-1e30", "0", "inf"])
def test_a_number_that_a_score_could_reach_is_no_mask(lowest: str) -> None:
    model = attention(CHOSEN.replace("-3.4028234663852886e+38", lowest))
    reason = "the scores are no product of two matrices, plus a mask"
    for each in (FuseAttention(), FuseAttention(max_opset=22), FuseAttention(products=True)):
        assert [s.reason for s in sites(model, each)] == [reason]


TRIANGLE = np.where(np.tri(4, dtype=bool), 0, -np.inf).astype(np.float32)


@pytest.mark.parametrize(
    ("mask", "is_causal"),
    [
        (TRIANGLE, True),
        (TRIANGLE[None, None], True),
        (np.maximum(TRIANGLE, np.finfo(np.float32).min), True),
        (TRIANGLE.T, False),
        (np.maximum(TRIANGLE, -1e4).astype(np.float32), False),  # a score could reach it
        (TRIANGLE + np.eye(4, dtype=np.float32), False),
    ],
)
def test_causal_where_the_mask_is_a_constant_triangle(mask: Array, is_causal: bool) -> None:
    shape = ", ".join(map(str, mask.shape))
    body = UNMASKED.replace("mask = Where(seen, zero, low)", "").replace(
        ", bool[b, 1, s, s] seen", f", float[{shape}] triangle"
    )
    body = body.replace(
        "scaled = Mul(product, scale)", "scaled = Mul(product, scale)\n    scores = Add(scaled, triangle)"
    )
    body = body.replace("Softmax(scaled)", "Softmax(scores)").replace("b, s,", "b, 4,")
    for native in (True, False):
        weights = weighted(body, {"triangle": mask})
        model = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(weights), data_prop=True))
        given_feeds = feeds(model, np.random.default_rng(0))
        before = compute(model, given_feeds)
        assert [s.reason for s in sites(model, FuseAttention(max_opset=23 if native else 22))] == [None]
        [fused] = [n for n in model.graph if "Attention" in n.op_type]
        assert fused.attributes.get_int("is_causal" if native else "unidirectional", 0) == is_causal
        assert distance(compute(model, given_feeds), before)[0] <= 4 * (40 * 12 + 4 * 2 * 7) * EPS32


def test_a_mask_of_one_row_gets_a_row_for_each_query() -> None:
    model = attention(ONE_ROW)
    assert [s.reason for s in sites(model, FuseAttention())] == [None]
    assert [n.op_type for n in model.graph] == ["Where", "Shape", "Concat", "Expand", "Attention"]


def test_a_row_for_each_query_below_opset_15() -> None:
    model = ir.from_proto(onnx.shape_inference.infer_shapes(
        ir.to_proto(graph(ONE_ROW, '<ir_version: 8, opset_import: ["" : 13]>')), data_prop=True
    ))  # fmt: skip
    values = feeds(model, np.random.default_rng(0))
    values = {**values, "seen": values["seen"] | True}
    before, bound = compute(model, values), reassociation(model)
    assert [s.reason for s in sites(model, FuseAttention(max_opset=22))] == [None]
    assert [n.op_type for n in model.graph] == ["Where", "Shape", "Slice", "Concat", "Expand", "MultiHeadAttention"]
    assert distance(compute(model, values), before)[0] <= bound


def test_an_operator_that_opset_21_redefines_keeps_the_opset() -> None:
    model = attention(BODY)
    x = model.graph.inputs[0]
    model.graph.insert_before(model.graph.node(0), ir.node("GroupNormalization", [x, x, x], {"num_groups": 1}))
    before = model.opset_imports[""]
    assert not raise_opset(model, 23)
    assert model.opset_imports[""] == before


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


HEADS = "queries, keys and values differ in their heads"
OUT = "float[b, s, 6] y)"
MERGED = "the heads are not merged to [batch, sequence, hidden]"
UNSPLIT = "queries: not split into heads, or sizes are unknown"
MORE = "queries: the views do more than split the last axis"
READ = "the probabilities have another reader"
GUARDS = [
    ("the probabilities are a graph output", BODY.replace(OUT, f"{OUT[:-1]}, float[b, 2, s, s] p)")),
    (READ, BODY.replace(OUT, f"{OUT[:-1]}, float[b, 2, s, s] r)").replace("o4 =", "r = Neg(p)\n o4 =")),
    (READ, GUARDED.replace("Where(bad, zero, p)", "Where(bad, scale, p)")),
    (READ, GUARDED.replace("Where(bad, zero, p)", "Where(bad, p, zero)")),
    (READ, GUARDED.replace(OUT, f"{OUT[:-1]}, bool[b, 2, s, s] bad)")),
    ("the probabilities are not multiplied with values", BODY.replace("MatMul(p, vt)", "MatMul(vt, p)")
     .replace("o4 =", "o5 =").replace("ot =", "o4 = Identity(vt)\n ot =")),
    ("softmax is not over the last of three or four axes", BODY.replace("Softmax(", "Softmax<axis = 2>(")),
    ("the scores are no product of two matrices, plus a mask", BODY.replace("Add(scaled, mask)", "Sub(scaled, mask)")),
    ("the scores are no product of two matrices, plus a mask",
     BODY.replace(OUT, f"{OUT[:-1]}, float[b, 2, s, s] product)")),
    (UNSPLIT,
     BODY.replace("qt = Transpose<perm = [0, 2, 1, 3]>", "qu = Transpose<perm = [0, 2, 1, 3]>")
     .replace("k4 =", "qt = Relu(qu)\n k4 =")),
    (UNSPLIT, BODY.replace("qt = Transpose<perm = [0, 2, 1, 3]>(q4)", "qt = Reshape(q, apart)")
     .replace("int64[4] split", "int64[4] apart = {0, 2, -1, 3}, int64[4] split")),
    (MORE, UNMASKED.replace("split = {0, 0, 2, 3}", "split = {1, -1, 2, 3}")),
    ("the values are scaled", BODY.replace("vt = Transpose<perm = [0, 2, 1, 3]>(v4)",
                                           "vu = Transpose<perm = [0, 2, 1, 3]>(v4)\n vt = Mul(vu, scale)")),
    (HEADS, BODY.replace("v4 = Reshape(v, split)", "v4 = Reshape(v, other)").replace(
        "float scale", "int64[4] other = {0, 0, 1, 6}, float scale").replace("MatMul(p, vt)", "MatMul(p, vt)")),
    ("the mask does not have one column per key", BODY.replace("bool[b, 1, s, s] seen", "bool[b, 1, s, 1] seen")),
    ("the mask does not have one column per key", BODY.replace("bool[b, 1, s, s] seen", "bool[3, 1, s, s] seen")),
    ("queries, keys and values differ in their batch or length",
     UNMASKED.replace("float[b, s, 6] k, float[b, s, 6] v", "float[1, s, 6] k, float[1, s, 6] v")),
    (MERGED, BODY.replace("ot = Transpose<perm = [0, 2, 1, 3]>",
                                                                "ot = Transpose<perm = [0, 2, 3, 1]>")),
    (MERGED,
     BODY.replace("merge = {0, 0, 6}", "merge = {0, 6, -1}").replace("float[b, s, 6] y", "float[b, 6, t] y")),
    ("queries: dtype is DOUBLE, not FLOAT", BODY.replace("float", "double")),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "body"), GUARDS, ids=[f"{i}: {g[0][:40]}" for i, g in enumerate(GUARDS)])
def test_guard(reason: str, body: str) -> None:
    model = attention(body)
    before = serialized(model)
    (record,) = pipeline.run(model, [FuseAttention()])
    assert [s.reason for s in record.sites] == [reason]
    assert not record.modified
    assert serialized(model) == before


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
    assert distance(compute(model, given_feeds), outputs)[0] <= 4 * (40 * 12 + 4 * 2 * 7) * EPS32


INFINITE = [
    GUARDED.replace("{-10000}", "{-inf}"),
    GUARDED.replace("bool[b, 1, s, s] seen", "float[b, 1, s, s] mask").replace("mask = Where(seen, zero, low)", ""),
]


@pytest.mark.parametrize("body", INFINITE)
def test_only_attention_replaces_a_guard_that_acts(body: str) -> None:
    model = attention(body)
    before = serialized(model)
    reason = "the mask may be infinite: rows without a visible key are guarded, and MultiHeadAttention gives NaN"
    assert [s.reason for s in sites(model, FuseAttention(max_opset=22))] == [reason]
    assert serialized(model) == before
    assert [s.reason for s in sites(model, FuseAttention())] == [None]


def test_a_stated_invariant_replaces_a_guard() -> None:
    model = attention(INFINITE[0])
    each = FuseAttention(max_opset=22, invariants=("some-key-visible",))
    assert [s.reason for s in sites(model, each)] == [None]
    assert [n.op_type for n in model.graph] == ["Where", "MultiHeadAttention"]
    assert each.options["invariants"] == ("some-key-visible",)


def test_a_guard_that_acts_leaves_zeros() -> None:
    model = attention(INFINITE[0])
    given_feeds = dict(feeds(model, np.random.default_rng(0)))
    given_feeds["seen"] = np.ones((2, 1, 5, 5), bool)
    given_feeds["seen"][1] = given_feeds["seen"][0, 0, 2] = False
    before = compute(model, given_feeds)
    assert not before["y"][1].any()
    assert sites(model, FuseAttention())[0].applied
    after = compute(model, given_feeds)
    assert not after["y"][1].any()
    assert distance(after, before)[0] <= 4 * (40 * 12 + 4 * 2 * 7) * EPS32


WAYS = (FuseAttention(), FuseAttention(max_opset=22), FuseAttention(products=True))


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
    # Scores are sums of 3 products, |score| < 40 in these draws, so that an error of 4 * 3 * eps of a score is one of
    # 40 * 12 * eps of its exponential; sums over 7 keys follow, twice, on values within 4 times the largest output.
    assert distance(compute(model, given_feeds), before)[0] <= 4 * (40 * 12 + 4 * 2 * 7) * EPS32
    assert not pipeline.run(model, [each])[0].modified


@pytest.mark.parametrize("each", WAYS, ids=["attention", "multi-head attention", "products"])
def test_rows_without_a_visible_key(each: FuseAttention) -> None:
    """A finite mask far below all scores swallows them: such rows are uniform, as they were."""
    model = attention(GUARDED.replace("{-10000}", "{-3.4028234663852886e+38}"))
    given_feeds = dict(feeds(model, np.random.default_rng(0)))
    given_feeds["seen"] = np.zeros((2, 1, 5, 5), bool)
    before = compute(model, given_feeds)
    assert sites(model, each)[0].applied
    assert distance(compute(model, given_feeds), before)[0] <= 4 * 7 * EPS32
