"""Attention in which several heads of queries share one of keys and values."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.export import export
from dlc.interface import Interface
from dlc.passes.fuse_attention import FuseAttention
from dlc.passes.fuse_rotary import FuseRotary
from dlc.passes.name_sizes import name_sizes
from dlc.recipe import Dim, Input, Recipe
from dlc.tolerance import EPS32, distance, reassociation
from dlc.types import Array, Feeds
from tests.passes.decoders import EXPORTERS, WIDTH, Decoder, Form
from tests.passes.texts import compute, expected, graph, serialized, sites, text

SIZES = """int64[4] queries = {0, 0, 4, 3}, int64[4] keys = {0, 0, 2, 3}, int64[1] two = {2},
    int64[3] merge = {0, 0, 12}, int64[5] wide = {1, 1, 2, 1, 1}, int64[4] flat = {0, 4, -1, 3},
    float scale = {0.75}, float zero = {0},
    float low = {-3.4028234663852886e+38}"""
BODY = f"""g (float[b, s, 12] q, float[b, t, 6] k, float[b, t, 6] v, bool[b, 1, s, t] seen) => (float[b, s, 12] y)
    <{SIZES}> {{
    q4 = Reshape(q, queries)
    qt = Transpose<perm = [0, 2, 1, 3]>(q4)
    k4 = Reshape(k, keys)
    kt = Transpose<perm = [0, 2, 1, 3]>(k4)
    v4 = Reshape(v, keys)
    vt = Transpose<perm = [0, 2, 1, 3]>(v4)
    ku = Unsqueeze(kt, two)
    ke = Expand(ku, wide)
    kr = Reshape(ke, flat)
    vu = Unsqueeze(vt, two)
    ve = Expand(vu, wide)
    vr = Reshape(ve, flat)
    swapped = Transpose<perm = [0, 1, 3, 2]>(kr)
    mask = Where(seen, zero, low)
    product = MatMul(qt, swapped)
    scaled = Mul(product, scale)
    scores = Add(scaled, mask)
    p = Softmax(scores)
    o4 = MatMul(p, vr)
    ot = Transpose<perm = [0, 2, 1, 3]>(o4)
    y = Reshape(ot, merge)
}}"""
UNMASKED = BODY.replace("scores = Add(scaled, mask)", "").replace("Softmax(scores)", "Softmax(scaled)")
GUARDED = BODY.replace(
    "o4 = MatMul(p, vr)",
    """bad = IsNaN(p)
    kept = Where(bad, zero, p)
    o4 = MatMul(kept, vr)""",
)
# As SDPA is exported: both sides scaled.
SHARED_SCALE = BODY.replace("scaled = Mul(product, scale)", "").replace("Add(scaled", "Add(product").replace(
    "product = MatMul(qt, swapped)", """qs = Mul(qt, scale)
    ks = Mul(scale, swapped)
    product = MatMul(qs, ks)""")  # fmt: skip
ONE_ROW = BODY.replace("bool[b, 1, s, t] seen", "bool[b, 1, 1, t] seen")
ONE_MASK = BODY.replace("bool[b, 1, s, t] seen", "bool[s, t] seen")
TILED = BODY.replace("Expand(", "Tile(")
HEADS_GIVEN = BODY.replace("float[b, s, 12] q", "float[b, 4, s, 3] qt").replace("q4 = Reshape(q, queries)", "").replace(
    "qt = Transpose<perm = [0, 2, 1, 3]>(q4)", "")  # fmt: skip
ONE_ROW_GIVEN = HEADS_GIVEN.replace("bool[b, 1, s, t] seen", "bool[b, 1, 1, t] seen")
CHOSEN = UNMASKED.replace("mask = Where(seen, zero, low)", "").replace(
    "p = Softmax(scaled)",
    """chosen = Where(seen, scaled, low)
    p = Softmax(chosen)""",
)
ONE_FOR_ALL = BODY.replace("[b, t, 6]", "[b, t, 3]").replace("{0, 0, 2, 3}", "{0, 0, 1, 3}").replace(
    "wide = {1, 1, 2,", "wide = {1, 1, 4,")  # fmt: skip
NONE_SHARED = BODY.replace("[b, t, 6]", "[b, t, 12]").replace(", keys)", ", queries)").replace("2, 1, 1}", "1, 1, 1}")
# Batch and heads in one axis, as torch.baddbmm reads them.
THREE_AXES = f"""g (float[b, 5, 12] q, float[b, 5, 6] k, float[b, 5, 6] v) => (float[b, 5, 12] y)
    <{SIZES}, int64[3] rows = {{-1, 5, 3}}, int64[4] back = {{-1, 4, 5, 3}}> {{
    {BODY[BODY.index("q4 =") : BODY.index("swapped =")]}
    qr = Reshape(qt, rows)
    k3 = Reshape(kr, rows)
    v3 = Reshape(vr, rows)
    swapped = Transpose<perm = [0, 2, 1]>(k3)
    product = MatMul(qr, swapped)
    p = Softmax(product)
    o3 = MatMul(p, v3)
    o4 = Reshape(o3, back)
    {BODY[BODY.index("ot =") :]}"""
FORMS = {"plain": BODY, "unmasked": UNMASKED, "guarded": GUARDED, "shared scale": SHARED_SCALE, "one mask": ONE_MASK,
         "tiled": TILED, "heads given": HEADS_GIVEN, "one row": ONE_ROW, "one row, heads given": ONE_ROW_GIVEN,
         "chosen": CHOSEN, "one for all": ONE_FOR_ALL,
         "none shared": NONE_SHARED}  # fmt: skip
BOUND = 4 * (40 * 12 + 4 * 2 * 7) * EPS32
"""Scores are sums of 3 products, |score| < 40 in these draws: an error of 4 * 3 * eps of a score is one of
40 * 12 * eps of its exponential; sums over 7 keys follow, twice, on values within 4 times the largest output."""


def attention(body: str, opset: int = 20) -> ir.Model:
    """Parse, with the types and sizes that canonicalisation leaves."""
    model = graph(body, f'<ir_version: 10, opset_import: ["" : {opset}]>')
    inferred = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True))
    name_sizes(inferred)
    return inferred


def feeds(model: ir.Model, rng: np.random.Generator, batch: int = 2, length: int = 5, keys: int = 6) -> Feeds:
    found: dict[str, Array] = {}
    for value in model.graph.inputs:
        sizes = {"b": batch, "s": length, "t": keys}
        array = rng.standard_normal([d if isinstance(d, int) else sizes[str(d)] for d in value.shape or ()])
        found[str(value.name)] = array > 0 if value.dtype == ir.DataType.BOOL else array.astype(np.float32)
    return found


def test_golden() -> None:
    model = attention(SHARED_SCALE)
    assert [s.reason for s in sites(model, FuseAttention())] == [None]
    assert text(model) == expected("""
        mask.floored = Where(seen, mask.choice, mask.choice_1)
        y = Attention(q, k, v, mask.floored)
        mask.choice: []
        mask.choice_1: []
    """)
    fused = model.graph.node(1)
    assert fused.attributes.get_float("scale", 0.0) == float(np.float32(0.75 * 0.75))
    assert (fused.attributes.get_int("q_num_heads", 0), fused.attributes.get_int("kv_num_heads", 0)) == (4, 2)
    assert (model.opset_imports[""], model.ir_version) == (23, 11)


def test_golden_on_four_axes() -> None:
    model = attention(HEADS_GIVEN.replace("mask = Where(seen, zero, low)", "mask = Where(seen, zero, scale)"))
    assert [s.reason for s in sites(model, FuseAttention())] == [None]
    assert text(model).partition("queries:")[0].strip() == expected("""
        k4 = Reshape(k, keys)
        kt = Transpose(k4)
        v4 = Reshape(v, keys)
        vt = Transpose(v4)
        mask = Where(seen, zero, scale)
        o4 = Attention(qt, kt, vt, mask)
        ot = Transpose(o4)
        y = Reshape(ot, merge)
    """)


READ = "the probabilities have another reader"
MASKED = "the mask does not have one column per key"
HEADS = "queries, keys and values differ in their heads"
LENGTH = "queries, keys and values differ in their batch or length"
UNSPLIT = "queries: not split into heads, or sizes are unknown"
MORE = "keys: the views do more than split the last axis"
GUARDS = [
    (LENGTH, BODY.replace("[b, t, 6] k", "[c, t, 6] k")),
    (LENGTH, BODY.replace("[b, t, 6] v", "[c, t, 6] v")),
    (UNSPLIT, HEADS_GIVEN.replace("[b, 4, s, 3] qt", "[b, 1, s, 3] qt")),
    (HEADS, BODY.replace("[b, t, 6] v", "[b, t, 3] v").replace("Reshape(v, keys)", "Reshape(v, one)")
     .replace("Expand(vu, wide)", "Expand(vu, wider)")
     .replace("float zero", "int64[4] one = {0, 0, 1, 3}, int64[5] wider = {1, 1, 4, 1, 1}, float zero")),
    (HEADS, BODY.replace("s, 12] q", "s, 3] q").replace("queries = {0, 0, 4,", "queries = {0, 0, 1,")),
    (MORE, BODY.replace("[b, ", "[5, ").replace("[5, t, 6] k", "[1, t, 6] k").replace("(ku, wide)", "(ku, copied)")
     .replace("float zero", "int64[5] copied = {5, 1, 2, 1, 1}, float zero")),
    (READ, BODY.replace("12] y)", "12] y, float[b, 4, s, t] r)").replace("o4 =", "r = Neg(p)\n o4 =")),
    ("the scores are no product of two matrices, plus a mask", BODY.replace("Add(scaled", "Sub(scaled")),
    (UNSPLIT.replace("queries", "values"),
     BODY.replace("vr = Reshape(ve, flat)", "vq = Reshape(ve, flat)\n vr = Neg(vq)")),
    (UNSPLIT.replace("queries", "keys"), BODY.replace("[0, 1, 3, 2]>(kr)", "[0, 1, 3, 2]>(km)")
     .replace("ku =", "km = Concat<axis = 1>(kt, kt)\n ku =")),
    (MORE, BODY.replace(
        "kr = Reshape(ke, flat)", "kn = Transpose<perm = [0, 2, 1, 3, 4]>(ke)\n kr = Reshape(kn, flat)")),
    (MORE, BODY.replace("ku = Unsqueeze(kt, two)", "ku = Unsqueeze(kt, one)")
     .replace("ke = Expand(ku, wide)", "ke = Expand(ku, first)")
     .replace("float zero", "int64[1] one = {1}, int64[5] first = {1, 2, 1, 1, 1}, float zero")),
    ("the scale is not positive, which no attention operator takes", BODY.replace("{0.75}", "{-0.75}")),
    ("queries: dtype is DOUBLE, not FLOAT", BODY.replace("float", "double")),
    (UNSPLIT, HEADS_GIVEN.replace("[b, 4, s, 3] qt", "[c, 4, s, 3] qt")),
    (UNSPLIT, HEADS_GIVEN.replace("[b, 4, s, 3] qt", "[b, 4, ?, 3] qt")),
    (UNSPLIT, HEADS_GIVEN.replace("[b, 4, s, 3] qt", "[b, h, s, 3] qt")),
    (MASKED, BODY.replace("bool[b, 1, s, t] seen", "bool[b, 1, s, 1] seen")),
    (MASKED, BODY.replace("bool[b, 1, s, t] seen", "bool[c, 1, s, t] seen")),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "body"), GUARDS, ids=[f"{i}: {g[0][:40]}" for i, g in enumerate(GUARDS)])
def test_guard(reason: str, body: str) -> None:
    refused(attention(body), FuseAttention(), reason)


@pytest.mark.parametrize(("opset", "newest"), [(17, 23), (20, 22)])
def test_without_the_operator(opset: int, newest: int) -> None:
    reason = "heads are shared, and Attention came with opset 23, to which the model cannot be raised"
    refused(attention(BODY, opset), FuseAttention(max_opset=newest), reason)


def refused(model: ir.Model, each: FuseAttention, reason: str) -> None:
    before = serialized(model)
    (record,) = pipeline.run(model, [each])
    assert [s.reason for s in record.sites] == [reason]
    assert not record.modified
    assert serialized(model) == before


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(FORMS)), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.integers(0, 1 << 16))
def test_properties(form: str, batch: int, length: int, keys: int, seed: int) -> None:
    model = attention(FORMS[form])
    given_feeds = feeds(model, np.random.default_rng(seed), batch, length, keys)
    before, interface = compute(model, given_feeds), Interface.of(model)
    (record,) = pipeline.run(model, [FuseAttention()])
    assert [s.reason for s in record.sites] == [None]
    assert Interface.of(model) == interface
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert distance(compute(model, given_feeds), before)[0] <= BOUND
    assert not pipeline.run(model, [FuseAttention()])[0].modified


@pytest.mark.parametrize(
    "body", [BODY, GUARDED.replace("{-3.4028234663852886e+38}", "{-inf}")], ids=["uniform", "zero"]
)
def test_rows_without_a_visible_key(body: str) -> None:
    """The lowest number swallows all scores: such rows are uniform. A guard makes them 0 after minus infinity."""
    model = attention(body)
    given_feeds = dict(feeds(model, np.random.default_rng(0)))
    given_feeds["seen"][1] = given_feeds["seen"][0, 0, 2] = False
    before = compute(model, given_feeds)
    assert before["y"][1].any() == (body is BODY)
    assert sites(model, FuseAttention())[0].applied
    assert distance(compute(model, given_feeds), before)[0] <= BOUND


INFINITE = [
    BODY.replace("{-3.4028234663852886e+38}", "{-inf}"),
    HEADS_GIVEN.replace("{-3.4028234663852886e+38}", "{-inf}"),
]


@pytest.mark.parametrize("body", INFINITE, ids=["merged", "split"])
def test_rows_that_are_nan_are_kept(body: str) -> None:
    """Attention would give 0 for them, so that it takes an invariant to write it."""
    reason = "the mask may be infinite: rows without a visible key are kept NaN, and Attention gives 0"
    refused(attention(body), FuseAttention(), reason)
    stated = FuseAttention(invariants=("some-key-visible",))
    assert [s.reason for s in sites(attention(body), stated)] == [None]


def test_products_do_not_share_heads() -> None:
    refused(attention(BODY), FuseAttention(products=True), "heads are shared, and products read them repeated")


def test_batch_and_heads_in_one_axis() -> None:
    model = attention(THREE_AXES)
    given_feeds = feeds(model, np.random.default_rng(0))
    before = compute(model, given_feeds)
    assert [s.reason for s in sites(model, FuseAttention())] == [None]
    assert [n.op_type for n in model.graph] == ["Attention"]
    assert distance(compute(model, given_feeds), before)[0] <= BOUND


def test_a_survey_says_what_a_run_does() -> None:
    model = attention(BODY)
    before = serialized(model)
    assert [reason for _, reason in FuseAttention().survey(model)] == [None]
    assert serialized(model) == before


CASES = [
    (form, name) for form in ("eager", "sdpa", "gqa") for name in EXPORTERS if (form, name) != ("gqa", "torchscript")
]
"""The old exporter cannot write heads that SDPA repeats itself."""


@pytest.mark.parametrize(("form", "exporter"), CASES)
@pytest.mark.parametrize("rotary", [True, False], ids=["after fuse-rotary", "alone"])
def test_exported(form: Form, exporter: str, rotary: bool) -> None:
    torch.manual_seed(0)
    model = EXPORTERS[exporter](Decoder(form))
    given_feeds = {"x": np.random.default_rng(0).standard_normal((2, 9, WIDTH)).astype(np.float32)}
    before, bound = compute(model, given_feeds), reassociation(model)
    if rotary:
        assert [s.reason for s in sites(model, FuseRotary())] == [None, None]
    assert [s.reason for s in sites(model, FuseAttention())] == [None]
    assert distance(compute(model, given_feeds), before)[0] <= bound
    assert ("Transpose" in [n.op_type for n in model.graph]) != rotary


@pytest.mark.zoo
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_llama(implementation: str) -> None:
    """Every layer of Llama as transformers writes it; the weights are random."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=64, attn_implementation=implementation,
    )  # fmt: skip
    llama = transformers.LlamaForCausalLM(config)

    class Prefill(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.llama = llama

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.llama(input_ids=input_ids, use_cache=False).logits)

    recipe = Recipe(
        name="llama", source=Prefill, inputs={"input_ids": Input("int64", ("n", "s"), low=0, high=64)},
        outputs=("logits",), dims={"n": Dim(1, 8), "s": Dim(2, 64)},
    )  # fmt: skip
    model = export(recipe, opset=20, ir_version=10).model
    given_feeds = {"input_ids": np.random.default_rng(0).integers(0, 64, (2, 9))}
    before, bound = compute(model, given_feeds), reassociation(model)
    assert [s.reason for s in sites(model, FuseRotary())] == [None] * 4
    assert [s.reason for s in sites(model, FuseAttention())] == [None] * 2
    assert distance(compute(model, given_feeds), before)[0] <= bound
