"""Attention in which several heads of queries share one head of keys and values, written out, becomes one operator.

    y = softmax(scale * q repeat(k)' + mask) repeat(v)

    q: [B, H, S, D];  k: [B, G, T, D];  v: [B, G, T, E];  H = G*N;  repeat: [B, G, T, D] -> [B, G*N, T, D], each head N
    times in a row;  mask: broadcast to [B, H, S, T], with all of S and T

The operator is Attention of opset 23, which repeats the heads itself. It reads heads in place, [B, S, H*D], where all
three were split from there and the result is merged; else it reads and gives four axes. Rows without a visible key are
what fuse-attention makes of them.

Measured on ONNX Runtime 1.32, AVX512, one thread, optimisations off: a layer with 9 heads of queries and 3 of keys and
values, 64 wide, takes 0.45x / 0.53x / 0.73x / 0.84x at sequence length 8 / 64 / 256 / 1024, rotary embedding fused as
well; 0.60x / 0.63x / 0.82x / 0.86x on four axes. A causal mask as an attribute is not faster than one that is read.
GroupQueryAttention of com.microsoft takes 0.55x / 0.69x / 0.89x / 0.67x. It is always causal, and right only where a
mask is proven to be that and nothing else, which the masks of transformers are not; so it is not written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from dlc.passes.attention_operands import _floored
from dlc.passes.edit import Edit
from dlc.passes.fuse_attention import ATTENTION
from dlc.passes.match_group_query_attention import Match, find
from dlc.passes.raise_opset import raisable, raise_opset
from dlc.passes.rewrite import Rewrite
from dlc.passes.weighted import label


@dataclass(frozen=True)
class FuseGroupQueryAttention(Rewrite):
    """Attention with repeated heads of keys and values becomes Attention (opset 23), without the repetition.

    ``max_opset``: the newest opset the model may be raised to. Not applied if that is below 23, if no heads are
    repeated, if the probabilities have another reader or are a graph output, if the mask does not have a row for each
    query and a column for each key, or if sizes are unknown. Sites are the Softmax nodes.
    """

    name: ClassVar[str] = "fuse-group-query-attention"
    max_opset: int = ATTENTION

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return every Softmax."""
        return (n for n in graph if n.op_type == "Softmax" and n.domain == "")

    def prepare(self, model: ir.Model) -> None:
        """Raise the opset if the operator will be written."""
        wanted = (n for n in self.candidates(model.graph) if label(n) not in self.skip)
        if self.max_opset >= ATTENTION and any(isinstance(find(n), Match) for n in wanted):
            raise_opset(model, ATTENTION)

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Write the operator in place of one match."""
        if isinstance(match := find(node), str):
            return match
        if self.max_opset < ATTENTION or not raisable(edit.model, ATTENTION):
            return f"the operator came with opset {ATTENTION}, to which the model cannot be raised"
        inputs, last, attributes = [match.q, match.k, match.v], match.product, dict[str, int]()
        if match.flat is not None:
            inputs, last = [*match.flat], match.last
            attributes = {"q_num_heads": match.heads, "kv_num_heads": match.kv_heads}
        if match.mask is not None:
            inputs.append(_mask(edit, match.mask, node, zeroed=match.zeroed))
        y = last.outputs[0]
        fused = edit.node(
            "Attention", inputs, f"{last.name}.attention", dtype=y.dtype, shape=y.shape, attributes=attributes
        )
        fused.attributes["scale"] = ir.AttrFloat32("scale", match.scale)
        edit.replace(last, fused)
        return None


def _mask(edit: Edit, mask: ir.Value, before: ir.Node, *, zeroed: bool) -> ir.Value:
    """Return the mask as the kernel reads it. Where a guard makes rows 0 that have no visible key, it does so too."""
    return mask if zeroed else edit.once(mask, lambda: _floored(edit, mask, before))
