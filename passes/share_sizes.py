"""Shape arithmetic that is computed once, or not at all.

Exporters write out the shape of every Reshape and Expand, operator by operator. Where the sizes can be told
(``dlc.passes.extents``), what is a number becomes a constant; two computations of the same sizes become one; and a
Reshape copies the sizes that stay in place:

    Reshape(x, Concat(batch, sequence, 12, 32))  =  Reshape(x, [0, 0, 12, 32])        x: [batch, sequence, 384]
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant
from dlc.passes.extents import Extents, contents, extents


def share_sizes(graph: ir.Graph) -> None:
    """Simplify the computation of sizes in one graph; what nothing reads any more is left for others to remove."""
    held = dict[tuple[int, Extents], ir.Value]()
    for node in list(graph):
        if node.op_type == "Reshape" and node.domain == "":
            _copy_sizes(node)
        if (sizes := _sizes(node)) is None:
            continue
        y = node.outputs[0]
        if (shape := y.shape) is None or y.is_graph_output():
            continue
        if all(isinstance(s, int) for s in sizes):
            array = np.array(sizes, np.int64).reshape(() if len(shape) == 0 else (-1,))
            ir.convenience.replace_all_uses_with(y, _initializer(graph, y, array))
            graph.remove(node, safe=True)
        elif (first := held.setdefault((len(shape), sizes), y)) is not y:
            ir.convenience.replace_all_uses_with(y, first)


def _sizes(node: ir.Node) -> Extents | None:
    """Return what an operator on sizes computes, if all of it can be told; it has at least one element."""
    if node.domain != "" or len(node.outputs) != 1 or not node.inputs or node.outputs[0].dtype != ir.DataType.INT64:
        return None
    y = node.outputs[0]
    if y.shape is None or len(y.shape) > 1:
        return None
    found = contents(y)
    return None if not found or None in found else found


def _copy_sizes(node: ir.Node) -> None:
    """Ask for 0, the size of the input, where a Reshape asks for a dynamic size that stays in place."""
    target, x = node.inputs[1], node.inputs[0]
    asked, given = contents(target), extents(x)
    if target is None or constant(target) is not None or asked is None or given is None or None in asked:
        return
    if node.attributes.get_int("allowzero", 0) == 1 or node.graph is None:
        return
    new = [0 if isinstance(a, str) and i < len(given) and given[i] == a else a for i, a in enumerate(asked)]
    if all(isinstance(n, int) for n in new) and isinstance(node.graph, ir.Graph):
        node.replace_input_with(1, _initializer(node.graph, target, np.array(new, np.int64), node))


def _initializer(graph: ir.Graph, like: ir.Value, array: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
                 reader: ir.Node | None = None) -> ir.Value:  # fmt: skip
    """Register a constant named after what it stands for."""
    name = f"{like.name}.sizes" if reader is None else f"{reader.outputs[0].name}.target"
    value = ir.Value(
        name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(array.shape), const_value=ir.Tensor(array)
    )
    graph.register_initializer(value)
    return value
