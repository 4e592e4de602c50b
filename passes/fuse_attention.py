"""Scaled dot-product attention, written out, becomes one operator, or as few products as it takes.

    y = merge(softmax(scale * split(q) split(k)' + mask) split(v))

    q: [B, S, H*D];  k: [B, T, G*D];  v: [B, T, G*E];  mask: [B|1, 1|H, S|1, T]
    split: [B, S, H*D] -> [B, H, S, D], and each head of keys and values H/G times in a row;  merge: the way back

The operator is Attention of opset 23, which reads the heads in place; below that opset it is MultiHeadAttention of
com.microsoft. Measured on ONNX Runtime 1.32, AVX2, one thread, 12 heads of 32, µs at sequence length 8 / 32 / 128:
Attention 27 / 57 / 560, MultiHeadAttention 39 / 86 / 630. One product for q, k and v, then Split, beats three products.
The third form keeps Softmax and computes the scores by one FusedMatMul, which scales and transposes on the way.
As shares of the time of a dynamo export as ONNX Runtime 1.32 optimises it at load, AVX512, one thread, 12 heads of 32
under a finite mask, at 8 / 32 / 128: Attention 0.58 / 0.54 / 0.54, MultiHeadAttention 0.73 / 0.83 / 0.66, products
0.86 / 0.92 / 0.92. Products are for places whose rows without a visible key no operator treats alike.

Attention reads fewer heads of keys and values than of queries, and repeats them itself. Where they do not come
straight from a split, as after a rotary embedding that stays written out, it reads and gives four axes. Without shared
heads it is not tried on four axes. AVX512, optimisations off: a layer with 9 heads of queries and 3 of keys and values,
64 wide, takes 0.45x / 0.53x / 0.73x / 0.84x at sequence length 8 / 64 / 256 / 1024, rotary embedding fused as well;
0.60x / 0.63x / 0.82x / 0.86x on four axes.
GroupQueryAttention of com.microsoft is the last form, for a fixed batch and a mask that is proven to be causal and
nothing else, as a weight of the model can be (``dlc.passes.group_query``). It skips what is hidden: a layer of that
size takes 0.94x / 0.96x / 0.91x at sequence length 8 / 128 / 1024, with Attention 0.91x / 0.95x / 0.95x
(benchmarks/shared_heads.py).

Softmax of a row that is all minus infinity is NaN, and exporters may guard against it: ``where(isnan(p), 0, p)``. Where
each row of the mask has a finite number no such row exists, and the guard does nothing, as long as the activations are
finite. Where one may exist, and the recipe does not state that some key is visible, Attention is for guarded places, as
it gives 0 there; MultiHeadAttention, which gives NaN, is for the others; and products keep what there is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import onnx_ir as ir

from dlc.passes.attention_operands import additive, causal, full_rows, hidden, raw_products
from dlc.passes.base import graphs
from dlc.passes.edit import Edit
from dlc.passes.group_query import group_query, refused
from dlc.passes.match_attention import Match, find
from dlc.passes.raise_opset import raise_opset
from dlc.passes.rewrite import Rewrite
from dlc.passes.weighted import label
from dlc.recipe import Invariant

ATTENTION = 23
"""First opset with the operator Attention."""
MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class FuseAttention(Rewrite):
    """Attention as PyTorch exports it becomes Attention (opset 23), or MultiHeadAttention below that opset.

    ``max_opset``: the newest opset the model may be raised to. ``pack``: compute q, k and v of one input in one
    product. ``products``: keep Softmax, and let the products scale and transpose. ``grouped``: write
    GroupQueryAttention. ``invariants``: what a recipe states.
    Not applied if the probabilities have another reader or are a graph output, if the mask cannot be broadcast by the
    operator, if it makes something else of rows without a visible key, if heads are shared and the operator is neither
    Attention nor GroupQueryAttention, if the latter would hide other keys, or if sizes are unknown. The kernel of
    Attention refuses an empty batch, query or key, which no recipe can declare; MultiHeadAttention and products take
    them. Sites are the Softmax nodes.
    """

    name: ClassVar[str] = "fuse-attention"
    max_opset: int = ATTENTION
    pack: bool = True
    products: bool = False
    grouped: bool = False
    invariants: tuple[Invariant, ...] = ()

    def alternatives(self) -> tuple[Self, ...]:
        """Return the standard and the contributed operators and plain products, with projections packed and apart."""
        opsets = [self.max_opset] if self.max_opset < ATTENTION else [self.max_opset, ATTENTION - 1]
        forms = [replace(self, max_opset=opset) for opset in opsets]
        forms += [replace(forms[-1], products=True), replace(forms[-1], grouped=True)]
        return tuple(replace(form, pack=pack) for form in forms for pack in (True, False))

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return every Softmax."""
        return (n for n in graph if n.op_type == "Softmax" and n.domain == "")

    def prepare(self, model: ir.Model) -> None:
        """Raise the opset if the standard operator will be written."""
        native = self.max_opset >= ATTENTION and not self.products and not self.grouped
        if native and any(self._matches(n) for graph in graphs(model.graph) for n in self.candidates(graph)):
            raise_opset(model, ATTENTION)

    def _matches(self, softmax: ir.Node) -> bool:
        match = find(softmax) if label(softmax) not in self.skip else None
        return isinstance(match, Match) and self._unfit(match, native=True) is None

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Write one match in this form."""
        if isinstance(match := find(node), str):
            return match
        if self.products:
            return raw_products(edit, match, pack=self.pack)
        if self.grouped:
            return self._grouped(match, edit)
        native = self._native(match, edit)
        if (reason := self._unfit(match, native=native)) is not None:
            return reason
        self._operator(match, edit, native=native)
        return None

    def _native(self, match: Match, edit: Edit) -> bool:
        """Whether to write Attention: in a model that has it, where it fits, and where nothing else reads the heads."""
        if self.max_opset < ATTENTION or not edit.raisable(ATTENTION):
            return False
        has = edit.model.opset_imports.get("", 1) >= ATTENTION
        return has or match.k.repeats > 1 or self._unfit(match, native=True) is None

    def _unfit(self, match: Match, *, native: bool) -> str | None:
        """Say why an operator cannot read the heads, or what it makes of rows without a visible key that differs."""
        if match.k.repeats > 1 and not native:
            return f"heads are shared, and Attention came with opset {ATTENTION}, to which the model cannot be raised"
        if not match.blind or native == match.guarded or "some-key-visible" in self.invariants:
            return None
        kept = "kept NaN, and Attention gives 0" if native else "guarded, and MultiHeadAttention gives NaN"
        return f"the mask may be infinite: rows without a visible key are {kept}"

    def _grouped(self, match: Match, edit: Edit) -> str | None:
        if (reason := refused(match)) is not None:
            return reason
        fused = group_query(edit, match, pack=self.pack)
        edit.replace(match.end, [fused, *_as_merged(edit, match, fused.outputs[0])])
        return None

    def _operator(self, match: Match, edit: Edit, *, native: bool) -> None:
        """Put the operator in the place of all from the split heads to the merged ones, or to the product."""
        queries, keys, values = hidden(edit, match, match.end, pack=self.pack)
        inputs: list[ir.Value | None] = [queries, keys, values]
        last = match.end
        attributes = _counts(match, native=native)
        if causal(match):
            attributes["is_causal" if native else "unidirectional"] = 1
        elif match.mask is not None:
            key = (match.mask, match.q.length, native)
            mask = edit.once(key, lambda: full_rows(edit, additive(edit, match, lifts=native), match, queries))
            inputs.extend([mask] if native else [None, None, mask])
        shape = ir.Shape([match.q.batch, match.q.length, match.q.heads * match.v.size])
        op, domain = ("Attention", "") if native else ("MultiHeadAttention", MICROSOFT)
        fused = edit.node(
            op, inputs, f"{last.name}.attention", dtype=last.outputs[0].dtype, shape=shape, attributes=attributes,
            domain=domain,
        )  # fmt: skip
        fused.attributes["scale"] = ir.AttrFloat32("scale", match.scale)
        if not native:
            edit.require(MICROSOFT)
        edit.replace(last, [fused, *([] if match.q.split else _as_merged(edit, match, fused.outputs[0]))])


def _counts(match: Match, *, native: bool) -> dict[str, int]:
    """Return the numbers of heads, which four axes tell by themselves."""
    if match.q.split:
        return {}
    heads = match.q.heads
    return {"q_num_heads": heads, "kv_num_heads": match.k.heads} if native else {"num_heads": heads}


def _as_merged(edit: Edit, match: Match, y: ir.Value) -> list[ir.Node]:
    """Bring [batch, queries, hidden] into the form that the heads were merged to."""
    nodes = list[ir.Node]()
    if match.sequence_first:
        assert y.shape is not None
        shape = ir.Shape([y.shape[1], y.shape[0], y.shape[2]])
        turned = edit.node("Transpose", [y], f"{y.name}.turned", dtype=y.dtype, shape=shape)
        turned.attributes["perm"] = ir.AttrInt64s("perm", [1, 0, 2])
        nodes.append(turned)
    if match.reshaped:
        x, last = nodes[-1].outputs[0] if nodes else y, match.last
        merged = edit.node("Reshape", [x, last.inputs[1]], f"{last.name}.merged", dtype=y.dtype, shape=None)
        merged.attributes.update(last.attributes)
        nodes.append(merged)
    return nodes
