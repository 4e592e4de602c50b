"""Causal attention as GroupQueryAttention of com.microsoft, which skips the scores that the mask hides.

It has no mask: a query sees the keys up to its own place, of those that ``seqlens_k`` counts from 0, here all. So a
mask must be proven to hide the keys after each query and nothing else; one that hides padding as well is no such mask.
An empty batch ends the process in ONNX Runtime 1.32 (a division by zero), so the batch must be fixed.

    q: [b, s, H*D];  k, v: [b, s, G*D];  seqlens_k: [b], the last place of each sequence;  total_sequence_length: s
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dlc.passes.attention_operands import causal, hidden
from dlc.passes.edit import Edit
from dlc.passes.match_attention import Match

MICROSOFT = "com.microsoft"
ALIGNED = 8
"""The kernel takes heads of a multiple of this size."""


def refused(match: Match) -> str | None:
    """Say why an attention is none that the operator computes, or return None."""
    if not causal(match):
        return "the mask is not proven to hide the keys after each query and nothing else"
    if not isinstance(match.q.batch, int):
        return "the batch is not fixed, and an empty one ends the process in GroupQueryAttention"
    if match.q.split:
        return "GroupQueryAttention reads heads that are not split"
    if match.v.size != match.q.size:
        return "GroupQueryAttention wants values as large as keys"
    return f"the size of a head is no multiple of {ALIGNED}" if match.q.size % ALIGNED else None


def group_query(edit: Edit, match: Match, *, pack: bool) -> ir.Node:
    """Return the operator for an attention that is not refused; what it reads is put before the end of that."""
    queries, keys, values = hidden(edit, match, match.end, pack=pack)
    batch, length = match.q.batch, match.q.length
    assert isinstance(batch, int)
    assert isinstance(length, int)
    last = edit.constant("last", np.full(batch, length - 1, np.int32))
    inputs = [queries, keys, values, None, None, last, edit.constant("total", np.array(length, np.int32))]
    y = match.end.outputs[0]
    shape = ir.Shape([batch, length, match.q.heads * match.q.size])
    fused = edit.node(
        "GroupQueryAttention", inputs, f"{match.end.name}.attention", dtype=y.dtype, shape=shape,
        attributes={"num_heads": match.q.heads, "kv_num_heads": match.k.heads}, domain=MICROSOFT,
    )  # fmt: skip
    fused.attributes["scale"] = ir.AttrFloat32("scale", match.scale)
    edit.require(MICROSOFT)
    return fused
