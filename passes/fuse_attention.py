"""Scaled dot-product attention, written out, becomes one operator.

    y = merge(softmax(scale * split(q) split(k)' + mask) split(v))

    q, k, v: [B, S, H*D];  split: [B, S, H*D] -> [B, H, S, D];  merge: the way back;  mask: [B|1, 1|H, S|1, T]

The operator is Attention of opset 23, which reads the heads in place; below that opset it is MultiHeadAttention of
com.microsoft. Measured on ONNX Runtime 1.32, AVX2, one thread, 12 heads of 32, µs at sequence length 8 / 32 / 128:
Attention 27 / 57 / 560, MultiHeadAttention 39 / 86 / 630. One product for q, k and v, then Split, beats three products.

Exporters guard softmax against rows that are all minus infinity: ``where(isnan(p), 0, p)``. Where the mask is finite
no such row exists and the guard does nothing, as long as the activations are finite. Where it is not, only Attention
gives such rows the 0 of the guard. A row without a visible key that was NaN, for want of a guard, is 0 or uniform.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant
from dlc.passes.edit import Edit
from dlc.passes.extents import extents
from dlc.passes.match_attention import Match, find
from dlc.passes.pack_projections import pack
from dlc.passes.raise_opset import raise_opset
from dlc.passes.rewrite import Rewrite
from dlc.passes.weighted import label

ATTENTION = 23
"""First opset with the operator Attention."""
SHAPE = 15
"""First opset in which Shape takes a range of axes."""
MICROSOFT = "com.microsoft"
FLOOR = np.nextafter(np.finfo(np.float32).min, np.float32(0))
"""The lowest FP32 number but one."""


@dataclass(frozen=True)
class FuseAttention(Rewrite):
    """Attention as PyTorch exports it becomes Attention (opset 23), or MultiHeadAttention below that opset.

    ``max_opset``: the newest opset the model may be raised to. ``pack``: compute q, k and v of one input in one
    product. Not applied if the probabilities have another reader or are a graph output, if the mask cannot be broadcast
    by the operator, if MultiHeadAttention would need a guard, or if sizes are unknown. Sites are the Softmax nodes.
    """

    name: ClassVar[str] = "fuse-attention"
    max_opset: int = ATTENTION
    pack: bool = True

    def alternatives(self) -> tuple[Self, ...]:
        """Return the standard and the contributed operator, with products packed and apart."""
        opsets = [self.max_opset] if self.max_opset < ATTENTION else [self.max_opset, ATTENTION - 1]
        return tuple(replace(self, max_opset=opset, pack=pack) for opset in opsets for pack in (True, False))

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return every Softmax."""
        return (n for n in graph if n.op_type == "Softmax" and n.domain == "")

    def prepare(self, model: ir.Model) -> None:
        """Raise the opset if the standard operator will be written."""
        if self.max_opset >= ATTENTION and any(self._matches(n) for n in self.candidates(model.graph)):
            raise_opset(model, ATTENTION)

    def _matches(self, softmax: ir.Node) -> bool:
        return label(softmax) not in self.skip and isinstance(find(softmax), Match)

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Write the operator in place of one match."""
        if isinstance(match := find(node), str):
            return match
        native = self.max_opset >= ATTENTION and edit.model.graph.opset_imports.get("", 1) >= ATTENTION
        if match.zeroed and not native:
            return "the mask may be infinite: rows without a visible key are guarded"
        inputs: list[ir.Value | None] = [match.q.value, match.k.value, match.v.value]
        if self.pack and (together := pack(edit, inputs, match.last)) is not None:
            inputs = [*together]
        heads = match.q.heads
        attributes = {"q_num_heads": heads, "kv_num_heads": heads} if native else {"num_heads": heads}
        if match.mask is not None:
            mask = edit.once((match.mask, native, match.zeroed), lambda: _mask(edit, match, native=native))
            inputs.extend([mask] if native else [None, None, mask])
        y = match.last.outputs[0]
        fused = edit.node(
            "Attention" if native else "MultiHeadAttention", inputs, f"{match.last.name}.attention",
            dtype=y.dtype, shape=y.shape, attributes=attributes, domain="" if native else MICROSOFT,
        )  # fmt: skip
        fused.attributes["scale"] = ir.AttrFloat32("scale", match.scale)
        if not native:
            edit.require(MICROSOFT)
        edit.replace(match.last, fused)
        return None


def _mask(edit: Edit, match: Match, *, native: bool) -> ir.Value:
    """Return the mask in the form that the kernels read."""
    assert match.mask is not None
    lifts = native and not match.zeroed
    return _with_rows(edit, _floored(edit, match.mask, match.last) if lifts else match.mask, match)


def _floored(edit: Edit, mask: ir.Value, before: ir.Node) -> ir.Value:
    """Lift FP32's lowest number: Attention takes it for minus infinity, and a row of it for 0, not for uniform."""
    node = mask.producer()
    choices = [constant(v) for v in node.inputs[1:]] if node is not None and node.op_type == "Where" else [None]
    if node is None or any(c is None for c in choices):
        floor = edit.constant("mask.floor", np.array(FLOOR))
        floored = edit.node("Max", [mask, floor], f"{mask.name}.floored", dtype=mask.dtype, shape=mask.shape)
    else:
        if all((c >= FLOOR).all() for c in choices if c is not None):
            return mask
        lifted = [edit.constant(f"{mask.name}.choice", np.maximum(c, FLOOR)) for c in choices if c is not None]
        inputs = [node.inputs[0], *lifted]
        floored = edit.node("Where", inputs, f"{mask.name}.floored", dtype=mask.dtype, shape=mask.shape)
    edit.insert_before(before, floored)
    return floored.outputs[0]


def _with_rows(edit: Edit, mask: ir.Value, match: Match) -> ir.Value:
    """Return the mask with a row per query: the kernels do not broadcast that axis."""
    shape, queries = extents(mask), extents(match.q.value)
    assert shape is not None
    assert queries is not None
    if shape[2] == queries[1]:
        return mask
    one, sizes = edit.constant("one", np.ones(1, np.int64)), ir.Shape([*shape[:2], queries[1], shape[3]])
    length = _length(edit, match.q.value)
    target = edit.node("Concat", [one, one, length[-1].outputs[0], one], "mask.shape", dtype=ir.DataType.INT64,
                       shape=[4], attributes={"axis": 0})  # fmt: skip
    rows = edit.node("Expand", [mask, target.outputs[0]], "mask.rows", dtype=mask.dtype, shape=sizes)
    edit.insert_before(match.last, [*length, target, rows])
    return rows.outputs[0]


def _length(edit: Edit, x: ir.Value) -> list[ir.Node]:
    """Compute the second size of a value, as a vector."""
    if edit.model.graph.opset_imports.get("", 1) >= SHAPE:
        return [edit.node("Shape", [x], "queries", dtype=ir.DataType.INT64, shape=[1],
                          attributes={"start": 1, "end": 2})]  # fmt: skip
    one, two = (edit.constant("bound", np.array([i], np.int64)) for i in (1, 2))
    sizes = edit.node("Shape", [x], "sizes", dtype=ir.DataType.INT64, shape=[3])
    axis = edit.constant("axis", np.zeros(1, np.int64))
    cut = edit.node("Slice", [sizes.outputs[0], one, two, axis], "queries", dtype=ir.DataType.INT64, shape=[1])
    return [sizes, cut]
