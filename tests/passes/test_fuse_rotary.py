from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.interface import Interface
from dlc.passes.fuse_attention import FuseAttention
from dlc.passes.fuse_rotary import FuseRotary
from dlc.tolerance import EPS32, distance, reassociation
from dlc.types import Array, Feeds
from tests.passes.decoders import EXPORTERS, HEADS, WIDTH, Decoder
from tests.passes.texts import compute, expected, graph, serialized, sites, text

CONSTANTS = """int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] last = {-1},
    int64[1] end = {9223372036854775807}, int64[4] split = {0, 0, 3, 4}"""
HALVES = f"""g (float[b, s, 12] x, float[s, 2] angles) => (float[b, 3, s, 4] y) <{CONSTANTS}> {{
    split4 = Reshape(x, split)
    heads = Transpose<perm = [0, 2, 1, 3]>(split4)
    both = Concat<axis = -1>(angles, angles)
    row = Unsqueeze(both, zero)
    cosine = Cos(row)
    sine = Sin(row)
    cos = Unsqueeze(cosine, one)
    sin = Unsqueeze(sine, one)
    plain = Mul(heads, cos)
    first = Slice(heads, zero, two, last, one)
    second = Slice(heads, two, end, last, one)
    negative = Neg(second)
    turned = Concat<axis = -1>(negative, first)
    product = Mul(turned, sin)
    y = Add(plain, product)
}}"""
PAIRS = (
    HALVES.replace("both = Concat<axis = -1>(angles, angles)", """column = Unsqueeze(angles, last)
    columns = Concat<axis = -1>(column, column)
    both = Reshape(columns, wide)""")
    .replace("Slice(heads, zero, two, last, one)", "Slice(heads, zero, end, last, two)")
    .replace("Slice(heads, two, end, last, one)", "Slice(heads, one, end, last, two)")
    .replace("turned = Concat<axis = -1>(negative, first)", """left = Unsqueeze(negative, last)
    right = Unsqueeze(first, last)
    stacked = Concat<axis = 4>(left, right)
    turned = Reshape(stacked, merged)""")
    .replace("int64[1] last =", "int64[2] wide = {0, 4}, int64[4] merged = {0, 0, 0, 4}, int64[1] last =")
)  # fmt: skip
SPLIT = HALVES.replace(
    "first = Slice(heads, zero, two, last, one)", "first, second = Split<axis = 3, num_outputs = 2>(heads)"
)
SPLIT = SPLIT.replace("second = Slice(heads, two, end, last, one)", "")
SWAPPED = HALVES.replace("Add(plain, product)", "Add(product, plain)").replace("Mul(heads, cos)", "Mul(cos, heads)")
POSITIONS_FIRST = (
    HALVES.replace("cos = Unsqueeze(cosine, one)", "cos = Unsqueeze(cosine, two)")
    .replace("sin = Unsqueeze(sine, one)", "sin = Unsqueeze(sine, two)")
    .replace("heads = Transpose<perm = [0, 2, 1, 3]>(split4)", "heads = Identity(split4)")
    .replace("[b, 3, s, 4] y", "[b, s, 3, 4] y").replace("Identity(split4)", "Reshape(x, split)")
    .replace("split4 = Reshape(x, split)", "")
)  # fmt: skip
HEADS_GIVEN = (
    HALVES.replace("float[b, s, 12] x", "float[b, 3, s, 4] heads").replace("split4 = Reshape(x, split)", "")
    .replace("heads = Transpose<perm = [0, 2, 1, 3]>(split4)", "")
)  # fmt: skip
BY_BATCH = (
    HALVES.replace("float[s, 2] angles", "float[b, s, 2] angles").replace("row = Unsqueeze(both, zero)", "")
    .replace("(row)", "(both)")
)  # fmt: skip
TABLE = (
    HALVES.replace("both = Concat<axis = -1>(angles, angles)", "").replace("row = Unsqueeze(both, zero)", "")
    .replace("float[s, 2] angles", "int64[s] at")
    .replace("int64[1] last =", """float[2, 4] cosines = {1, 2, 1, 2, 3, 4, 3, 4},
    float[2, 4] sines = {5, 6, 5, 6, 7, 8, 7, 8}, int64[1] last =""")
    .replace("Cos(row)", "Gather(cosines, at)").replace("Sin(row)", "Gather(sines, at)")
    .replace("(cosine, one)", "(cosine, lead)").replace("(sine, one)", "(sine, lead)")
    .replace("int64[1] last =", "int64[2] lead = {0, 1}, int64[1] last =")
)  # fmt: skip
FORMS = {"halves": HALVES, "pairs": PAIRS, "split": SPLIT, "swapped": SWAPPED, "positions first": POSITIONS_FIRST,
         "heads given": HEADS_GIVEN, "by batch": BY_BATCH, "table": TABLE}  # fmt: skip
BOUND = 4 * 2 * EPS32
"""A number is a sum of two products. Kernels may fuse one with the sum, and a cosine may differ by its place."""


def rotary(body: str, opset: int = 20) -> ir.Model:
    """Parse, with the types and shapes that an exporter annotates."""
    model = graph(body, f'<ir_version: 10, opset_import: ["" : {opset}]>')
    inferred = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True))
    for node in inferred.graph:
        node.name = f"node_{node.outputs[0].name}"
    return inferred


def feeds(model: ir.Model, rng: np.random.Generator, batch: int = 2, length: int = 5) -> Feeds:
    found: dict[str, Array] = {}
    for value in model.graph.inputs:
        shape = [d if isinstance(d, int) else {"b": batch, "s": length}[str(d)] for d in value.shape or ()]
        index = value.dtype == ir.DataType.INT64
        found[str(value.name)] = rng.integers(0, 2, shape) if index else rng.standard_normal(shape).astype(np.float32)
    return found


def test_golden() -> None:
    model = rotary(HALVES)
    assert [s.reason for s in sites(model, FuseRotary())] == [None]
    assert text(model) == expected("""
        both = Concat(angles, angles)
        row = Unsqueeze(both, zero)
        cosine = Cos(row)
        sine = Sin(row)
        cos = Unsqueeze(cosine, one)
        sin = Unsqueeze(sine, one)
        cos.firsts = Slice(cos, rotary.start, rotary.end, rotary.last, rotary.step)
        cos.firsts.rows = Squeeze(cos.firsts, rotary.axes)
        rotary.batch = Shape(x)
        rotary.shape = Concat(rotary.batch, rotary.one, rotary.one)
        cos.firsts.rows.batched = Expand(cos.firsts.rows, rotary.shape)
        sin.firsts = Slice(sin, rotary.start, rotary.end, rotary.last, rotary.step)
        sin.firsts.rows = Squeeze(sin.firsts, rotary.axes)
        sin.firsts.rows.batched = Expand(sin.firsts.rows, rotary.shape)
        node_y.rotary = RotaryEmbedding(x, cos.firsts.rows.batched, sin.firsts.rows.batched)
        node_y.rotary.heads = Reshape(node_y.rotary, split)
        y = Transpose(node_y.rotary.heads)
        zero: [1]
        one: [1]
        split: [4]
        rotary.start: [1]
        rotary.end: [1]
        rotary.last: [1]
        rotary.step: [1]
        rotary.axes: [1]
        rotary.one: [1]
    """)
    assert (model.opset_imports[""], model.ir_version) == (23, 11)


def test_golden_below_opset_23() -> None:
    model = rotary(PAIRS)
    assert [s.reason for s in sites(model, FuseRotary(max_opset=22))] == [None]
    assert text(model).partition("zero:")[0].strip() == expected("""
        column = Unsqueeze(angles, last)
        columns = Concat(column, column)
        both = Reshape(columns, wide)
        row = Unsqueeze(both, zero)
        cosine = Cos(row)
        sine = Sin(row)
        cos = Unsqueeze(cosine, one)
        sin = Unsqueeze(sine, one)
        cos.firsts = Slice(cos, rotary.start, rotary.end, rotary.last, rotary.step)
        cos.firsts.rows = Squeeze(cos.firsts, rotary.axes)
        sin.firsts = Slice(sin, rotary.start, rotary.end, rotary.last, rotary.step)
        sin.firsts.rows = Squeeze(sin.firsts, rotary.axes)
        node_y.rotary = RotaryEmbedding(x, first_position, cos.firsts.rows, sin.firsts.rows)
        node_y.rotary.heads = Reshape(node_y.rotary, split)
        y = Transpose(node_y.rotary.heads)
    """)
    assert dict(model.opset_imports) == {"": 20, "com.microsoft": 1}


def test_heads_that_others_read_stay_split() -> None:
    model = rotary(
        HALVES.replace("s, 4] y)", "s, 4] y, float[b, 3, s, 4] r)").replace("plain =", "r = Relu(heads)\n plain =")
    )
    assert [s.reason for s in sites(model, FuseRotary())] == [None]
    (turned,) = (n for n in model.graph if n.op_type == "RotaryEmbedding")
    assert turned.inputs[0] is not None
    assert turned.inputs[0].name == "heads"


COSINES = "the cosines may differ between the halves that are turned together"
ROWS = "the angles are not one row for each position"
OTHERS = HALVES.replace("float[s, 2] angles", "float[s, 2] angles, float[s, 2] others")
LAST_AXES = "the heads come after the positions, which the operator does not read"
OPSET_12 = HALVES.replace("Unsqueeze(both, zero)", "Unsqueeze<axes = [0]>(both)")
for table in ("cosine", "sine"):
    OPSET_12 = OPSET_12.replace(f"Unsqueeze({table}, one)", f"Unsqueeze<axes = [1]>({table})")
GUARDS = [
    ("what is turned is not what is multiplied with the cosines",
     HALVES.replace("plain = Mul(heads", "other = Neg(heads)\n plain = Mul(other")),
    ("dtype is DOUBLE, not FLOAT", HALVES.replace("float", "double")),
    ("sizes are unknown", HEADS_GIVEN.replace("[b, 3, s, 4] heads", "[b, 3, ?, 4] heads")),
    ("the number of heads is dynamic", HEADS_GIVEN.replace("[b, 3, s, 4]", "[b, h, s, 4]")),
    (ROWS, HALVES.replace("[s, 2] angles", "[1, 2] angles")),
    (ROWS, BY_BATCH.replace("[b, s, 2] angles", "[c, s, 2] angles")),
    (ROWS, HALVES.replace("cos = Unsqueeze(cosine, one)", "cos = Unsqueeze(cosine, two)")
     .replace("[s, 2] angles", "[3, 2] angles").replace("[b, s, 12] x", "[b, 3, 12] x")
     .replace("3, s, 4]", "3, 3, 4]")),
    (COSINES, OTHERS.replace("(angles, angles)", "(angles, others)")),
    (COSINES, HALVES.replace("Concat<axis = -1>(angles, angles)", "Concat<axis = 0>(angles, angles)")
     .replace("[s, 2] angles", "[3, 4] angles").replace("[b, s, 12] x", "[b, 6, 12] x")
     .replace("3, s, 4]", "3, 6, 4]")),
    (COSINES.replace("cosines", "sines"), OTHERS.replace("sine = Sin(row)", """wide = Concat<axis = -1>(angles, others)
     two_rows = Unsqueeze(wide, zero)
     sine = Sin(two_rows)""")),
    (COSINES, TABLE.replace("{1, 2, 1, 2, 3, 4, 3, 4}", "{1, 2, 1, 2, 3, 4, 3, 5}")),
    (COSINES, HALVES.replace("Cos(row)", "Relu(row)")),
    (COSINES, HALVES.replace("Concat<axis = -1>(angles, angles)", "Slice(angles, zero, four, last, one)")
     .replace("[s, 2] angles", "[s, 6] angles").replace("int64[1] last =", "int64[1] four = {4}, int64[1] last =")),
    ("the cosines may differ between the neighbours that are turned together", PAIRS.replace(
        "Concat<axis = -1>(column, column)", "Concat<axis = 1>(column, column)")),
    ("the cosines may differ between the neighbours that are turned together", PAIRS.replace(
        "Reshape(columns, wide)", "Concat<axis = -1>(angles, angles)")),
    (LAST_AXES, POSITIONS_FIRST.replace("[b, s, 12] x", "[b, s, 3, 4] heads").replace("heads = Reshape(x, split)", "")),
    (LAST_AXES, POSITIONS_FIRST.replace("4] y)", "4] y, float[b, s, 3, 4] r)")
     .replace("plain =", "r = Relu(heads)\n plain =")),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "body"), GUARDS, ids=[f"{i}: {g[0][:40]}" for i, g in enumerate(GUARDS)])
def test_guard(reason: str, body: str) -> None:
    refused(rotary(body), FuseRotary(), reason)


def test_only_the_standard_operator_reads_angles_that_differ_in_the_batch() -> None:
    reason = "the angles may differ within the batch, which only the standard operator reads"
    refused(rotary(BY_BATCH), FuseRotary(max_opset=22), reason)


def test_a_look_sees_the_model_as_the_rewrite_would_raise_it() -> None:
    model = rotary(BY_BATCH)
    before = serialized(model)
    assert [reason for _, reason in FuseRotary().survey(model)] == [None]
    assert serialized(model) == before


def test_an_opset_in_which_axes_are_attributes() -> None:
    refused(rotary(OPSET_12, opset=12), FuseRotary(), "below opset 13 operators name axes in other ways")


def refused(model: ir.Model, each: FuseRotary, reason: str) -> None:
    before = serialized(model)
    (record,) = pipeline.run(model, [each])
    assert [s.reason for s in record.sites] == [reason]
    assert not record.modified
    assert serialized(model) == before


OTHER_TURNS = [
    HALVES.replace("(negative, first)", "(first, negative)"),
    HALVES.replace("Neg(second)", "Abs(second)"),
    HALVES.replace("Slice(heads, two, end, last, one)", "Slice(heads, one, end, last, one)").replace(
        "Slice(heads, zero, two", "Slice(heads, zero, one"),
    HALVES.replace("turned = Concat<axis = -1>", "turned = Concat<axis = 2>").replace("[b, s, 12] x", "[b, 6, 12] x")
    .replace("first = Slice(heads, zero, two, last", "first = Slice(heads, zero, three, axis")
    .replace("second = Slice(heads, two, end, last", "second = Slice(heads, three, end, axis")
    .replace("[s, 2] angles", "[6, 2] angles").replace("3, s, 4] y", "3, 6, 4] y")
    .replace("int64[1] last =", "int64[1] three = {3}, int64[1] axis = {2}, int64[1] last ="),
    HALVES.replace("second = Slice(heads", "twin = Relu(heads)\n second = Slice(twin"),
    PAIRS.replace("Concat<axis = 4>(left, right)", "Concat<axis = 3>(left, right)"),
    PAIRS.replace("Slice(heads, one, end, last, two)", "Slice(heads, two, end, last, one)").replace(
        "Slice(heads, zero, end, last, two)", "Slice(heads, zero, two, last, one)"),
    PAIRS.replace("left = Unsqueeze(negative, last)", "left = Unsqueeze(negative, axis)")
    .replace("right = Unsqueeze(first, last)", "right = Unsqueeze(first, axis)")
    .replace("Concat<axis = 4>", "Concat<axis = 3>").replace("int64[1] last =", "int64[1] axis = {3}, int64[1] last ="),
]  # fmt: skip


@pytest.mark.parametrize("body", OTHER_TURNS, ids=range(len(OTHER_TURNS)))
def test_what_turns_otherwise_is_no_site(body: str) -> None:
    model = rotary(body)
    before = serialized(model)
    assert sites(model, FuseRotary()) == ()
    assert serialized(model) == before


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(FORMS)), st.booleans(), st.integers(0, 3), st.integers(1, 7), st.integers(0, 1 << 16))
def test_properties(form: str, native: bool, batch: int, length: int, seed: int) -> None:
    model = rotary(FORMS[form])
    given_feeds = feeds(model, np.random.default_rng(seed), batch, length)
    before, interface = compute(model, given_feeds), Interface.of(model)
    each = FuseRotary(max_opset=23 if native else 22)
    (record,) = pipeline.run(model, [each])
    assert record.modified == (native or form != "by batch")
    assert Interface.of(model) == interface
    if native:
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert distance(compute(model, given_feeds), before)[0] <= BOUND
    assert not pipeline.run(model, [each])[0].modified


@pytest.mark.parametrize("native", [True, False])
def test_infinities_and_nan_stay_where_they_were(native: bool) -> None:
    model = rotary(HALVES)
    given_feeds = dict(feeds(model, np.random.default_rng(0)))
    given_feeds["angles"][0] = 0.0  # a sine of 0 times infinity is NaN
    given_feeds["x"][0, :, 0] = np.inf
    given_feeds["x"][1, :, 7] = -np.inf
    given_feeds["x"][0, 2, 5] = np.nan
    before = compute(model, given_feeds)["y"]
    assert sites(model, FuseRotary(max_opset=23 if native else 22))[0].applied
    after = compute(model, given_feeds)["y"]
    assert np.isnan(before).any()
    assert np.array_equal(np.isnan(after), np.isnan(before))
    assert np.array_equal(after[np.isinf(before)], before[np.isinf(before)])
    assert np.array_equal(np.isinf(after), np.isinf(before))


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("pairs", [False, True], ids=["halves", "pairs"])
@pytest.mark.parametrize("native", [True, False])
def test_exported(exporter: str, pairs: bool, native: bool) -> None:
    torch.manual_seed(0)
    model = EXPORTERS[exporter](Decoder(pairs=pairs))
    given_feeds = {"x": np.random.default_rng(0).standard_normal((2, 9, WIDTH)).astype(np.float32)}
    before, bound = compute(model, given_feeds), reassociation(model)
    assert [s.reason for s in sites(model, FuseRotary(max_opset=23 if native else 22))] == [None, None]
    assert distance(compute(model, given_feeds), before)[0] <= bound


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_attention_after_it_reads_the_heads_in_place(exporter: str) -> None:
    torch.manual_seed(0)
    model = EXPORTERS[exporter](Decoder("sdpa", groups=HEADS))
    given_feeds = {"x": np.random.default_rng(0).standard_normal((2, 9, WIDTH)).astype(np.float32)}
    before, bound = compute(model, given_feeds), reassociation(model)
    assert [s.reason for each in (FuseRotary(), FuseAttention()) for s in sites(model, each)] == [None] * 3
    assert distance(compute(model, given_feeds), before)[0] <= bound
    assert "Transpose" not in [n.op_type for n in model.graph]
