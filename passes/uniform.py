"""A tensor of one number, or of one row of a table, is a constant where all that read it broadcast.

    x + Gather(table, zeros of [b, s])  =  x + table[0]        x: [b, s, k], table: [n, k]

Exporters write out what a model fills by itself, ids of the only segment or a mask of ones, at the sizes of its inputs.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from dlc.passes.base import constant
from dlc.passes.emit import Emitter
from dlc.passes.extents import extents
from dlc.passes.intervals import Intervals
from dlc.passes.narrowing import narrow, narrowed
from dlc.types import Array


def fold_uniform(graph: ir.Graph, known: Intervals) -> None:
    """Replace each such value of one graph; what nothing reads any more is left for others to remove."""
    emitter: Emitter | None = None
    for node in list(graph):
        if node.domain != "" or len(node.outputs) != 1 or not (y := node.outputs[0]).uses():
            continue
        for array in _equivalents(node, known):
            if (found := narrowed(y, array.shape)) is not None:
                narrow(found)
                emitter = emitter or Emitter(graph)
                ir.convenience.replace_all_uses_with(y, emitter.constant(f"{y.name}.uniform", array, y.dtype))
                break


def _equivalents(node: ir.Node, known: Intervals) -> Iterator[Array]:
    """Yield constants that broadcast to the output of a node, that of the lowest rank first."""
    y = node.outputs[0]
    if (number := known.number(y)) is not None:
        yield number
        yield number.reshape((1,) * len(extents(y) or ()))
    elif node.op_type == "Gather":
        yield from _rows(node, known)


def _rows(node: ir.Node, known: Intervals) -> Iterator[Array]:
    """Take what a Gather finds at the one index that it looks up everywhere."""
    index, at = known.number(node.inputs[1]), extents(node.inputs[1])
    if index is None or at is None or (table := constant(node.inputs[0])) is None or table.ndim == 0:
        return
    axis = node.attributes.get_int("axis", 0) % table.ndim
    if not -table.shape[axis] <= int(index) < table.shape[axis]:
        return
    row = table.take(int(index), axis)
    if axis == 0:
        yield row
    yield row.reshape(*table.shape[:axis], *(1 for _ in at), *table.shape[axis + 1 :])
