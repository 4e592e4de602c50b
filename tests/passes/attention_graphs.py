"""Attention written out in operators, in the forms that exporters give it: q, k, v [b, s, 6], two heads of 3."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from dlc.passes.fuse_attention import FuseAttention
from dlc.tolerance import EPS32
from dlc.types import Array, Feeds
from tests.passes.texts import graph

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


WAYS = (FuseAttention(), FuseAttention(max_opset=22), FuseAttention(products=True))
BOUND = 4 * (40 * 12 + 4 * 2 * 7) * EPS32
"""Scores are sums of 3 products, |score| < 40 in these draws: an error of 4 * 3 * eps of a score is one of
40 * 12 * eps of its exponential; sums over 7 keys follow, twice, on values within 4 times the largest output."""
