"""Where attention is left as it is, and why."""

from __future__ import annotations

import pytest

from dlc import pipeline
from dlc.passes.fuse_attention import FuseAttention
from tests.passes.attention_graphs import (
    BODY,
    GUARDED,
    SWAPPED,
    UNMASKED,
    attention,
)
from tests.passes.texts import serialized

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
    (UNSPLIT,  # on four axes, and no heads are shared
     SWAPPED.replace("qt = Transpose<perm = [0, 2, 1, 3]>", "qu = Transpose<perm = [0, 2, 1, 3]>")
     .replace("k4 =", "qt = Relu(qu)\n k4 =")),
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
