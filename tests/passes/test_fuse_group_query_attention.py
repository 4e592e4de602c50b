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
from dlc.passes.fuse_group_query_attention import FuseGroupQueryAttention
from dlc.passes.fuse_rotary import FuseRotary
from dlc.recipe import Dim, Input, Recipe
from dlc.tolerance import EPS32, distance, reassociation
from dlc.types import Array, Feeds
from tests.passes.decoders import EXPORTERS, WIDTH, Decoder
from tests.passes.texts import compute, expected, graph, serialized, sites, text

SIZES = """int64[4] queries = {0, 0, 4, 3}, int64[4] keys = {0, 0, 2, 3}, int64[1] two = {2}, int64[3] merge = {0, 0, 12},
    int64[5] wide = {1, 1, 2, 1, 1}, int64[4] flat = {0, 4, -1, 3}, float scale = {0.75}, float zero = {0},
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
GUARDED = BODY.replace("o4 = MatMul(p, vr)", """bad = IsNaN(p)
    kept = Where(bad, zero, p)
    o4 = MatMul(kept, vr)""")
# As SDPA is exported: both sides scaled.
SHARED_SCALE = BODY.replace("scaled = Mul(product, scale)", "").replace("Add(scaled", "Add(product").replace(
    "product = MatMul(qt, swapped)", """qs = Mul(qt, scale)
    ks = Mul(scale, swapped)
    product = MatMul(qs, ks)""")  # fmt: skip
ONE_MASK = BODY.replace("bool[b, 1, s, t] seen", "bool[s, t] seen")
TILED = BODY.replace("Expand(", "Tile(")
HEADS_GIVEN = BODY.replace("float[b, s, 12] q", "float[b, 4, s, 3] qt").replace("q4 = Reshape(q, queries)", "").replace(
    "qt = Transpose<perm = [0, 2, 1, 3]>(q4)", "")  # fmt: skip
FORMS = {"plain": BODY, "unmasked": UNMASKED, "guarded": GUARDED, "shared scale": SHARED_SCALE, "one mask": ONE_MASK,
         "tiled": TILED, "heads given": HEADS_GIVEN}  # fmt: skip
BOUND = 4 * (40 * 12 + 4 * 2 * 7) * EPS32
"""Scores are sums of 3 products, |score| < 40 in these draws: an error of 4 * 3 * eps of a score is one of 40 * 12 * eps
of its exponential; sums over 7 keys follow, twice, on values within 4 times the largest output."""


def attention(body: str, opset: int = 20) -> ir.Model:
    """Parse, with the types and shapes that an exporter annotates."""
    model = graph(body, f'<ir_version: 10, opset_import: ["" : {opset}]>')
    inferred = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True))
    for name, shape in SHAPES.items():
        value = next((v for n in inferred.graph for v in n.outputs if v.name == name), None)
        if value is not None and "flat" in body and [*body.split("flat = {")[1][:11]] == [*"0, 4, -1, 3"]:
            value.shape = ir.Shape(shape)
    return inferred


SHAPES = {"kr": ("b", 4, "t", 3), "vr": ("b", 4, "t", 3)}
