"""What attention reads, written anew from what was matched: queries, keys, values, and the mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant
from dlc.passes.edit import Edit
from dlc.passes.extents import extents
from dlc.passes.match_attention import SWALLOWS, Mask, Match
from dlc.passes.match_heads import Heads
from dlc.passes.pack_projections import pack as pack_projections
from dlc.types import Array

MICROSOFT = "com.microsoft"
SHAPE = 15
"""First opset in which Shape takes a range of axes."""
FLOOR = np.nextafter(np.finfo(np.float32).min, np.float32(0))
"""The lowest FP32 number but one."""
SEQUENCE_FIRST = (1, 2, 0, 3)
BATCH_FIRST = (0, 2, 1, 3)
"""From [s, b, h, d], and from [b, s, h, d], to [b, h, s, d]."""


def hidden(edit: Edit, match: Match, before: ir.Node, *, pack: bool) -> list[ir.Value]:
    """Return queries, keys and values as [batch, length, hidden]; split ones are returned as they are."""
    parts = _parts(edit, match, before, pack=pack)
    return [_batch_first(edit, v, h, before) for v, h in zip(parts, (match.q, match.k, match.v), strict=True)]


def _batch_first(edit: Edit, value: ir.Value, heads: Heads, before: ir.Node) -> ir.Value:
    if not heads.sequence_first:
        return value
    shape = [heads.batch, heads.length, heads.heads * heads.size]
    return _moved(edit, "Transpose", [value], f"{value.name}.turned", shape, before, perm=(1, 0, 2))


def raw_products(edit: Edit, match: Match, *, pack: bool) -> str | None:
    """Write scores and weighted values with as few transposes as can be: FusedMatMul takes over the rest.

    On three axes, with the sequence first, it takes over all: [s, b*h, d] is read as [b*h, s, d].
    """
    axes = len(extents(match.product.inputs[1]) or ())
    inputs = (match.q, match.k, match.v)
    if match.k.repeats > 1:
        return "heads are shared, and products read them repeated"
    if axes == 3 and not all(h.sequence_first for h in inputs):
        return "batch and heads are in one axis, and the batch comes first"
    scores, product = match.scores, match.product
    alone = _parts(edit, match, scores, pack=pack)
    q, k, v = (_split_heads(edit, x, h, scores, axes) for x, h in zip(alone, inputs, strict=True))
    turned = {"transBatchA": 1, "transBatchB": 1} if axes == 3 else {}
    edit.require(MICROSOFT)
    y = scores.outputs[0]
    fused = edit.node(
        "FusedMatMul", [q, k], f"{scores.name}.fused", dtype=y.dtype, shape=y.shape,
        attributes={"transB": 1, **turned}, domain=MICROSOFT,
    )  # fmt: skip
    fused.attributes["alpha"] = ir.AttrFloat32("alpha", match.scale)
    edit.replace(scores, fused)
    p, z = product.inputs[0], product.outputs[0]
    if axes == 3:
        weighted = edit.node(
            "FusedMatMul", [p, v], f"{product.name}.fused", dtype=z.dtype, shape=z.shape,
            attributes={"transBatchB": 1}, domain=MICROSOFT,
        )  # fmt: skip
    else:
        weighted = edit.node("MatMul", [p, v], f"{product.name}.plain", dtype=z.dtype, shape=z.shape)
    edit.replace(product, weighted)
    return None


def _split_heads(edit: Edit, value: ir.Value, heads: Heads, before: ir.Node, axes: int) -> ir.Value:
    """Return [b, h, s, d], or [s, b*h, d] on three axes."""
    batch, length = heads.batch, heads.length
    if axes == 3:
        target = edit.constant(f"{value.name}.heads", np.array([0, -1, heads.size], np.int64))
        shape: list[int | str | None] = [length, None, heads.size]
        return _moved(edit, "Reshape", [value, target], f"{value.name}.split", shape, before)
    lead, perm = ([length, batch], SEQUENCE_FIRST) if heads.sequence_first else ([batch, length], BATCH_FIRST)
    target = edit.constant(f"{value.name}.heads", np.array([0, 0, heads.heads, heads.size], np.int64))
    apart = [*lead, heads.heads, heads.size]
    split = _moved(edit, "Reshape", [value, target], f"{value.name}.split", apart, before)
    turned = [batch, heads.heads, length, heads.size]
    return _moved(edit, "Transpose", [split], f"{value.name}.heads", turned, before, perm=perm)


def _moved(
    edit: Edit, op: str, inputs: Sequence[ir.Value], name: str, shape: Sequence[int | str | None], before: ir.Node,
    perm: Sequence[int] | None = None,
) -> ir.Value:  # fmt: skip
    node = edit.node(op, inputs, name, dtype=inputs[0].dtype, shape=ir.Shape(shape))
    if perm is not None:
        node.attributes["perm"] = ir.AttrInt64s("perm", list(perm))
    edit.insert_before(before, node)
    return node.outputs[0]


def _parts(edit: Edit, match: Match, before: ir.Node, *, pack: bool) -> list[ir.Value]:
    """Return the values that hold queries, keys and values each alone: split off, or computed in one product."""
    inputs = (match.q, match.k, match.v)
    if all(h.part == (0, 1) for h in inputs):
        together = pack_projections(edit, [h.value for h in inputs], before) if pack else None
        return together or [h.value for h in inputs]
    split = dict[tuple[ir.Value, int], Sequence[ir.Value]]()
    for h in inputs:
        if h.part[1] > 1 and (h.value, h.part[1]) not in split:
            split[h.value, h.part[1]] = _split(edit, h, before)
    return [split[h.value, h.part[1]][h.part[0]] if h.part[1] > 1 else h.value for h in inputs]


def _split(edit: Edit, heads: Heads, before: ir.Node) -> Sequence[ir.Value]:
    value, count, width = heads.value, heads.part[1], heads.heads * heads.size
    assert value.shape is not None
    shape = ir.Shape([*list(value.shape)[:-1], width])
    outputs = [ir.Value(name=edit.fresh(f"{value.name}.{i}"), type=value.type, shape=shape) for i in range(count)]
    sizes = edit.constant(f"{value.name}.sizes", np.full(count, width, np.int64))
    node = ir.Node(
        "", "Split", [value, sizes], [ir.AttrInt64("axis", -1)], outputs=outputs, name=edit.fresh(f"{value.name}.parts")
    )
    edit.insert_before(before, node)
    return outputs


def causal(match: Match) -> bool:
    """Whether the mask is constant and hides from each query just the keys after it."""
    if match.mask is None or not isinstance(length := match.q.length, int) or match.k.length != length:
        return False
    array = constant(match.mask.value)
    if array is None or array.size != length * length:
        return False
    square = array.reshape(length, length)
    seen = np.tri(length, dtype=bool)
    if match.mask.lowest is not None:
        return bool(np.array_equal(square != match.mask.where, seen))
    return bool((square[seen] == 0).all() and (square[~seen] <= SWALLOWS).all())


def additive(edit: Edit, match: Match, *, lifts: bool) -> ir.Value:
    """Return the mask as one that is added, on four axes; ``lifts``: its lowest number is the lowest but one.

    Attention takes FP32's lowest number for minus infinity, and a row of it for 0, not for uniform.
    """
    assert match.mask is not None
    mask = match.mask.value if match.mask.lowest is None else _chosen(edit, match.mask, match.end, lifts=lifts)
    if lifts and match.mask.lowest is None:
        mask = _floored(edit, mask, match.end, infinite=match.blind)
    missing = 4 - len(match.mask.shape)
    if missing == 0:
        return mask
    axes = edit.constant("mask.axes", np.arange(missing, dtype=np.int64))
    return _moved(
        edit, "Unsqueeze", [mask, axes], f"{mask.name}.axes", [1] * missing + list(match.mask.shape), match.end
    )


def _chosen(edit: Edit, mask: Mask, before: ir.Node, *, lifts: bool) -> ir.Value:
    """Return what is added to scores in the place of a choice between them and a lowest number."""
    assert mask.lowest is not None
    lowest = np.array(mask.lowest, np.float32)
    low = edit.constant("mask.lowest", _lifted(lowest) if lifts else lowest)
    zero = edit.constant("mask.zero", np.zeros((), np.float32))
    inputs = [mask.value, low, zero] if mask.where else [mask.value, zero, low]
    chosen = edit.node("Where", inputs, f"{mask.value.name}.mask", dtype=ir.DataType.FLOAT, shape=ir.Shape(mask.shape))
    edit.insert_before(before, chosen)
    return chosen.outputs[0]


def _floored(edit: Edit, mask: ir.Value, before: ir.Node, *, infinite: bool) -> ir.Value:
    """Return a mask whose finite numbers are lifted; ``infinite``: it may hold minus infinity, which stays."""
    node = mask.producer()
    if (whole := constant(mask)) is not None:
        return mask if np.array_equal(_lifted(whole), whole) else edit.constant(f"{mask.name}.floored", _lifted(whole))
    choices = [constant(v) for v in node.inputs[1:]] if node is not None and node.op_type == "Where" else [None]
    if node is None or any(c is None for c in choices):
        floor = edit.constant("mask.floor", np.array(FLOOR))
        floored = edit.node("Max", [mask, floor], f"{mask.name}.floored", dtype=mask.dtype, shape=mask.shape)
        if infinite:
            edit.insert_before(before, floored)
            floored = _where_infinite(edit, mask, floored.outputs[0], before)
    else:
        if all(np.array_equal(_lifted(c), c) for c in choices if c is not None):
            return mask
        lifted = [edit.constant(f"{mask.name}.choice", _lifted(c)) for c in choices if c is not None]
        inputs = [node.inputs[0], *lifted]
        floored = edit.node("Where", inputs, f"{mask.name}.floored", dtype=mask.dtype, shape=mask.shape)
    edit.insert_before(before, floored)
    return floored.outputs[0]


def _where_infinite(edit: Edit, mask: ir.Value, floored: ir.Value, before: ir.Node) -> ir.Node:
    """Return what takes minus infinity from a mask, and the rest from the floored one."""
    hides = edit.node("IsInf", [mask], f"{mask.name}.infinite", dtype=ir.DataType.BOOL, shape=mask.shape)
    hides.attributes["detect_positive"] = ir.AttrInt64("detect_positive", 0)
    edit.insert_before(before, hides)
    inputs = [hides.outputs[0], mask, floored]
    return edit.node("Where", inputs, f"{mask.name}.lifted", dtype=mask.dtype, shape=mask.shape)


def _lifted(mask: Array) -> Array:
    """Lift finite numbers; minus infinity is what Attention takes it for."""
    return np.where(np.isneginf(mask), mask, np.maximum(mask, FLOOR)).astype(mask.dtype)


def full_rows(edit: Edit, mask: ir.Value, match: Match, queries: ir.Value) -> ir.Value:
    """Return the mask with a row per query: the kernels do not broadcast that axis.

    ``queries``: what the operator reads; a projection that was packed must not stay for its length alone.
    """
    shape, heads = extents(mask), match.q
    assert shape is not None
    if shape[2] == heads.length:
        return mask
    one, sizes = edit.constant("one", np.ones(1, np.int64)), ir.Shape([*shape[:2], heads.length, shape[3]])
    length = _length(edit, queries, 2 if heads.split else 1)
    target = edit.node("Concat", [one, one, length[-1].outputs[0], one], "mask.shape", dtype=ir.DataType.INT64,
                       shape=[4], attributes={"axis": 0})  # fmt: skip
    rows = edit.node("Expand", [mask, target.outputs[0]], "mask.rows", dtype=mask.dtype, shape=sizes)
    edit.insert_before(match.end, [*length, target, rows])
    return rows.outputs[0]


def _length(edit: Edit, x: ir.Value, axis: int) -> list[ir.Node]:
    """Compute one size of [b, s, hidden], or of split heads from opset 15 on, as a vector."""
    if edit.model.graph.opset_imports.get("", 1) >= SHAPE:
        return [edit.node("Shape", [x], "queries", dtype=ir.DataType.INT64, shape=[1],
                          attributes={"start": axis, "end": axis + 1})]  # fmt: skip
    bounds = [edit.constant("bound", np.array([i], np.int64)) for i in (axis, axis + 1, 0)]
    sizes = edit.node("Shape", [x], "sizes", dtype=ir.DataType.INT64, shape=[3])
    cut = edit.node("Slice", [sizes.outputs[0], *bounds], "queries", dtype=ir.DataType.INT64, shape=[1])
    return [sizes, cut]
