"""Finds scaled dot-product attention, written out in operators, however an exporter moves the axes.

    merge(softmax(scale * split(q) split(k)' + mask) split(v))

The scale may stand at the queries, the keys, the product, or be shared between them, as a factor or a divisor. Heads
are split and merged by any chain of views (``dlc.passes.views``): with the batch or the sequence first, on four axes or
on three with batch and heads in one, out of a tensor of their own or a part of one that holds queries, keys and values.
Several heads of queries may share one of keys and values, which is repeated for them (``dlc.passes.match_heads``). The
mask is added, or a lowest number takes the place of scores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from dlc.interface import Extent
from dlc.passes.base import constant, only_user, scalar
from dlc.passes.extents import contents, extents
from dlc.passes.match_heads import Heads, operands, unscaled
from dlc.passes.ranges import finite
from dlc.passes.views import VIEWS, View, sources, through

SWALLOWS = -1e32
"""A number this low plus any score below 2^80 is itself again, so that adding it is putting it in the score's place."""


@dataclass(frozen=True, slots=True)
class Mask:
    """Added to the scores, [batch|1, heads|1, queries|1, keys] or without leading axes.

    ``lowest``: the value is a condition; scores get this number, the lowest, where it is ``where``.
    """

    value: ir.Value
    shape: tuple[Extent, ...]
    lowest: float | None = None
    where: bool = True


@dataclass(frozen=True, slots=True)
class Match:
    """One attention, from the scaled product of queries and keys to the Reshape that merges the heads.

    ``product``: of probabilities and values.  ``sequence_first``: the heads are merged to [queries, batch, hidden],
    ``reshaped``: with other axes before the last, such as [queries * batch, hidden].
    ``blind``: rows of the mask may be all minus infinity, so that their probabilities are NaN; ``guarded``: NaN is
    replaced by 0.
    """

    q: Heads
    k: Heads
    v: Heads
    scale: float
    mask: Mask | None
    scores: ir.Node
    product: ir.Node
    last: ir.Node
    sequence_first: bool
    reshaped: bool
    blind: bool
    guarded: bool

    @property
    def end(self) -> ir.Node:
        """The node in whose place an operator is put; heads that it reads split it gives split."""
        return self.product if self.q.split else self.last


def find(softmax: ir.Node) -> Match | str:
    """Find the attention around a Softmax, or say why there is none."""
    if isinstance(weighted := _weighted(softmax), str):
        return weighted
    product, guarded = weighted
    if (scored := _scores(softmax.inputs[0])) is None:
        return "the scores are no product of two matrices, plus a mask"
    top, scores, scale, mask = scored
    found = operands((scores.inputs[0], scores.inputs[1], product.inputs[1]))
    if isinstance(found, str):
        return found
    q, k, v = found
    scale *= q.scale * k.scale
    if scale <= 0:
        return "the scale is not positive, which no attention operator takes"
    rank = len(extents(product.inputs[1]) or ())
    hiding = _four_axes(mask, q, k, rank) if mask is not None else None
    merged = _merged(product, q, v, rank)
    if isinstance(hiding, str) or isinstance(merged, str):
        return hiding if isinstance(hiding, str) else str(merged)
    blind = hiding is not None and _blind(hiding)
    return Match(q, k, v, scale, hiding, top, product, *merged, blind, guarded)


def guard(softmax: ir.Node) -> ir.Node | None:
    """Return the Where that puts 0 in the place of NaN probabilities, if that is all that reads them."""
    p = softmax.outputs[0]
    users = sorted((u.node for u in p.uses()), key=lambda n: n.op_type)
    if p.is_graph_output() or [n.op_type for n in users] != ["IsNaN", "Where"]:
        return None
    isnan, where = users
    fits = where.inputs[0] is isnan.outputs[0] and where.inputs[2] is p and scalar(where.inputs[1]) == 0.0
    return where if fits and only_user(isnan.outputs[0]) is where else None


def _weighted(softmax: ir.Node) -> tuple[ir.Node, bool] | str:
    """Return the product of the probabilities with the values, and whether there is a guard."""
    p = softmax.outputs[0]
    rank = len(extents(p) or ())
    if rank not in (3, 4) or softmax.attributes.get_int("axis", -1) not in (-1, rank - 1):
        return "softmax is not over the last of three or four axes"
    if p.is_graph_output():
        return "the probabilities are a graph output"
    guarded = guard(softmax)
    if guarded is not None:
        p = guarded.outputs[0]
    product = only_user(p)
    if product is None:
        return "the probabilities have another reader"
    if product.op_type != "MatMul" or product.domain != "" or product.inputs[0] is not p:
        return "the probabilities are not multiplied with values"
    return product, guarded is not None


def _scores(value: ir.Value | None) -> tuple[ir.Node, ir.Node, float, Mask | None] | None:
    """Take ``scale * q k' + mask`` apart; neither the sum nor the product may be read elsewhere."""
    if value is None or only_user(value) is None:
        return None
    if (node := _made_by(value, "Add")) is not None:
        for i in (0, 1):
            if (found := _product(node.inputs[i])) is not None and (mask := node.inputs[1 - i]) is not None:
                return *found, Mask(mask, extents(mask) or ())
    elif (node := _made_by(value, "Where")) is not None and (condition := node.inputs[0]) is not None:
        for i in (1, 2):
            lowest = scalar(node.inputs[3 - i])
            if (found := _product(node.inputs[i])) is not None and lowest is not None and lowest <= SWALLOWS:
                return *found, Mask(condition, extents(condition) or (), lowest, where=i == 2)
    elif (found := _product(value)) is not None:
        return *found, None
    return None


def _product(value: ir.Value | None) -> tuple[ir.Node, ir.Node, float] | None:
    """Return the node that gives a scaled product, the product and its scale; neither may be read elsewhere."""
    scale, base = unscaled(value)
    node, top = _made_by(base, "MatMul"), value.producer() if value is not None else None
    single = all(v is not None and only_user(v) is not None for v in (base, value))
    return (top, node, scale) if top is not None and node is not None and single else None


def _merged(product: ir.Node, q: Heads, v: Heads, rank: int) -> tuple[ir.Node, bool, bool] | str:
    """Return the Reshape that merges the heads, whether the sequence comes first there, and if it does more."""
    b, h, s, d = View.whole((q.batch, q.heads, q.length, v.size)).axes
    view, value = View.of((b, h, s, d) if rank == 4 else ((*b, *h), s, d)), product.outputs[0]
    while (node := only_user(value)) is not None and node.op_type in VIEWS and node.domain == "":
        if node.inputs[0] is not value or (found := through(view, node, node.outputs[0])) is None or found.fixed:
            return "the heads are not merged to [batch, sequence, hidden]"
        view, value = found, node.outputs[0]
        for lead in ((b, s), (s, b)):
            flat = tuple(f for axis in view.axes for f in axis)
            if node.op_type != "Reshape" or flat != (*lead[0], *lead[1], *h, *d) or view.axes[-1] != (*h, *d):
                continue
            reshaped = view.axes[:-1] != lead
            if reshaped and 0 in (contents(node.inputs[1]) or ()):
                return "the heads are merged to sizes that are copied"
            return node, lead != (b, s), reshaped
    return "the heads are not merged to [batch, sequence, hidden]"


def _four_axes(mask: Mask, q: Heads, k: Heads, rank: int) -> Mask | str:
    """Return a mask as one that can be given four axes, [b|1, h|1, s|1, t], in its smallest form."""
    kind = ir.DataType.FLOAT if mask.lowest is None else ir.DataType.BOOL
    if mask.value.dtype != kind:
        return f"the mask is not {kind.name}"
    wanted = (q.batch, q.heads, q.length, k.length)
    for value in _spread(mask.value, rank):
        shape = extents(value)
        if shape is None or None in shape or len(shape) > 4:
            continue
        padded = (1,) * (4 - len(shape)) + shape
        if padded[3] == wanted[3] and all(has in (1, size) for has, size in zip(padded, wanted, strict=True)):
            return replace(mask, value=value, shape=shape)
    return "the mask does not have one column per key"


def _blind(mask: Mask) -> bool:
    """Whether it cannot be ruled out that a row of a mask hides all keys, by minus infinity."""
    array = constant(mask.value)
    if mask.lowest is None:
        return not finite(mask.value) and (array is None or bool(np.isneginf(array).all(axis=-1).any()))
    return mask.lowest == -np.inf and (array is None or bool((array == mask.where).all(axis=-1).any()))


def _spread(value: ir.Value, rank: int) -> list[ir.Value]:
    """Return what a mask is expanded from, smallest first; on three axes also what has batch and heads in two."""
    found = list[ir.Value]()
    for origin, view, _ in sources(value):
        b, h, *rest = view.source if len(view.source) == 4 else ((), ())
        if view.axes == (view.source if rank == 4 or len(view.source) < 3 else ((*b, *h), *rest)):
            found.append(origin)
    shape = extents(value)
    if value not in found and shape is not None and (rank == 4 or len(shape) < 3 or shape[0] == 1):
        found.append(value)
    while found and (node := _made_by(found[0], "Expand")) is not None and (x := node.inputs[0]) is not None:
        found.insert(0, x)
    return found


def _made_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and node.domain == "" else None
