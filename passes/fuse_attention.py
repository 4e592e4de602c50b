"""Scaled dot-product attention, written out, becomes one operator.

    y = merge(softmax(scale * split(q) split(k)' + mask) split(v))

    q, k, v: [B, S, H*D];  split: [B, S, H*D] -> [B, H, S, D];  merge: the way back;  mask: [B|1, 1|H, S|1, T]

The operator is Attention of opset 23, which reads the heads in place; below that opset it is MultiHeadAttention of
com.microsoft. Measured on ONNX Runtime 1.32, AVX2, one thread, 12 heads of 32, µs at sequence length 8 / 32 / 128:
Attention 27 / 57 / 560, MultiHeadAttention 39 / 86 / 630. One product for q, k and v, then Split, beats three products.

Exporters guard softmax against rows that are all minus infinity: ``where(isnan(p), 0, p)``. Where the mask is finite
no such row exists and the guard does nothing, as long as the activations are finite; where it is not, the site is left.
A row without a visible key that was NaN, for want of a guard, is 0 or uniform.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from dlc.passes.base import Pass, Rewritten, Site, constant, rewritten
from dlc.passes.emit import Emitter
from dlc.passes.extents import extents
from dlc.passes.index_grid import unroll
from dlc.passes.match_attention import Match, find
from dlc.passes.pack_projections import pack
from dlc.passes.raise_opset import raise_opset
from dlc.passes.replace import take_over
from dlc.passes.weighted import label

ATTENTION = 23
"""First opset with the operator Attention."""
MICROSOFT = "com.microsoft"
FLOOR = np.nextafter(np.finfo(np.float32).min, np.float32(0))
"""The lowest FP32 number but one."""


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Attention as PyTorch exports it becomes Attention (opset 23), or MultiHeadAttention below that opset.

    ``max_opset``: the newest opset the model may be raised to. ``pack``: compute q, k and v of one input in one
    product. Not applied if the probabilities have another reader or are a graph output, if the mask cannot be broadcast
    by the operator or may be infinite under a guard, or if sizes are unknown. Sites are the Softmax nodes, and the
    GatherND nodes with which libraries spread a padding mask (``index_grid``).
    """

    name: ClassVar[str] = "fuse-attention"
    max_opset: int = ATTENTION
    pack: bool = True

    def call(self, model: ir.Model) -> Rewritten:
        """Match all, then raise the opset once if anything matched, then rewrite."""
        grids = [n for n in model.graph if n.op_type == "GatherND" and n.domain == ""]
        sites = [Site("index-grid", label(n), n.op_type, unroll(model.graph, n)) for n in grids]
        softmaxes = [n for n in model.graph if n.op_type == "Softmax" and n.domain == ""]
        found = [(n, find(n)) for n in softmaxes]
        if any(isinstance(m, Match) for _, m in found):
            native = self.max_opset >= ATTENTION and raise_opset(model, ATTENTION)
            rewriter = _Rewriter(model.graph, native=native, packed=self.pack)
            for _, match in found:
                if isinstance(match, Match):
                    rewriter.rewrite(match)
            if not native:
                model.graph.opset_imports.setdefault(MICROSOFT, 1)
            common.RemoveUnusedNodesPass()(model)
        reasons = [(n, None if isinstance(m, Match) else m) for n, m in found]
        return rewritten(model, sites + [Site(self.name, label(n), n.op_type, reason) for n, reason in reasons])


class _Rewriter:
    """Writes the operator in place of each match; a mask that several sites share is expanded once."""

    def __init__(self, graph: ir.Graph, *, native: bool, packed: bool) -> None:
        self.graph = graph
        self.native = native
        self.packed = packed
        self._masks: dict[ir.Value, ir.Value] = {}

    def rewrite(self, match: Match) -> None:
        emit = Emitter(self.graph)
        inputs: list[ir.Value | None] = [match.q.value, match.k.value, match.v.value]
        if self.packed and (together := pack(emit, inputs, match.last)) is not None:
            inputs = [*together]
        mask = self._mask(emit, match)
        heads = match.q.heads
        attributes = {"q_num_heads": heads, "kv_num_heads": heads} if self.native else {"num_heads": heads}
        if mask is not None:
            inputs.extend([mask] if self.native else [None, None, mask])
        y = match.last.outputs[0]
        node = emit.node(
            "Attention" if self.native else "MultiHeadAttention", inputs, f"{match.last.name}.attention",
            dtype=y.dtype, shape=y.shape, attributes=attributes, domain="" if self.native else MICROSOFT,
        )  # fmt: skip
        node.attributes["scale"] = ir.AttrFloat32("scale", match.scale)
        self.graph.insert_before(match.last, node)
        take_over(match.last, node)

    def _mask(self, emit: Emitter, match: Match) -> ir.Value | None:
        """Return the mask in the form that the kernels read, made once for all sites that share it."""
        if match.mask is None:
            return None
        if match.mask not in self._masks:
            mask = self._floored(emit, match.mask, match.last) if self.native else match.mask
            self._masks[match.mask] = self._with_rows(emit, mask, match)
        return self._masks[match.mask]

    def _floored(self, emit: Emitter, mask: ir.Value, before: ir.Node) -> ir.Value:
        """Lift FP32's lowest number: Attention takes it for minus infinity, and a row of it for 0, not for uniform."""
        node = mask.producer()
        choices = [constant(v) for v in node.inputs[1:]] if node is not None and node.op_type == "Where" else [None]
        if node is None or any(c is None for c in choices):
            floor = emit.constant("mask.floor", np.array(FLOOR))
            floored = emit.node("Max", [mask, floor], f"{mask.name}.floored", dtype=mask.dtype, shape=mask.shape)
        else:
            if all((c >= FLOOR).all() for c in choices if c is not None):
                return mask
            lifted = [emit.constant(f"{mask.name}.choice", np.maximum(c, FLOOR)) for c in choices if c is not None]
            inputs = [node.inputs[0], *lifted]
            floored = emit.node("Where", inputs, f"{mask.name}.floored", dtype=mask.dtype, shape=mask.shape)
        self.graph.insert_before(before, floored)
        return floored.outputs[0]

    def _with_rows(self, emit: Emitter, mask: ir.Value, match: Match) -> ir.Value:
        """Return the mask with a row per query: the kernels do not broadcast that axis."""
        shape, queries = extents(mask), extents(match.q.value)
        assert shape is not None
        assert queries is not None
        if shape[2] == queries[1]:
            return mask
        one, sizes = emit.constant("one", np.ones(1, np.int64)), ir.Shape([*shape[:2], queries[1], shape[3]])
        length = emit.node("Shape", [match.q.value], "queries", dtype=ir.DataType.INT64, shape=[1],
                           attributes={"start": 1, "end": 2})  # fmt: skip
        target = emit.node("Concat", [one, one, length.outputs[0], one], "mask.shape", dtype=ir.DataType.INT64,
                           shape=[4], attributes={"axis": 0})  # fmt: skip
        rows = emit.node("Expand", [mask, target.outputs[0]], "mask.rows", dtype=mask.dtype, shape=sizes)
        self.graph.insert_before(match.last, [length, target, rows])
        return rows.outputs[0]
