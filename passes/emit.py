"""Adds nodes and initializers to a graph under names that are free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from dlc.passes.base import all_nodes
from dlc.types import Array


class Emitter:
    """Makes nodes and initializers of one graph. It reads the taken names once: make one a pass, not one a site."""

    def __init__(self, graph: ir.Graph, taken: set[str | None] | None = None) -> None:
        self.graph = graph
        if taken is not None:
            self._taken = taken
            return
        self._taken = {v.name for v in (*graph.inputs, *graph.initializers.values())}
        for node in all_nodes(graph):
            self._taken.update(v.name for v in node.outputs)
            self._taken.add(node.name)

    def fresh(self, name: str) -> str:
        """Return ``name``, or the first free of ``name_1``, ``name_2`` and so on, and take it."""
        unique, i = name, 0
        while unique in self._taken:
            i += 1
            unique = f"{name}_{i}"
        self._taken.add(unique)
        return unique

    def constant(self, name: str, array: Array, dtype: ir.DataType | None = None) -> ir.Value:
        """Register an initializer; ``dtype`` where numpy's own type does not say it (bfloat16)."""
        unique = self.fresh(name)
        tensor = ir.Tensor(array, dtype=dtype, name=unique)
        value = ir.Value(name=unique, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        *,
        dtype: ir.DataType | None,
        shape: Sequence[int] | ir.Shape | None,
        attributes: Mapping[str, int] | None = None,
        domain: str = "",
    ) -> ir.Node:
        """Make a node with one output, not yet in the graph; the output bears the node's name."""
        unique = self.fresh(name)
        output = ir.Value(
            name=unique,
            type=None if dtype is None else ir.TensorType(dtype),
            shape=None if shape is None else ir.Shape(shape),
        )
        attrs = ir.convenience.convert_attributes(attributes or {})
        return ir.Node(domain, op, inputs, attrs, outputs=[output], name=unique)

    def cast(self, value: ir.Value, name: str, to: ir.DataType) -> ir.Value:
        """Insert a Cast of a value behind its producer, or before the first node."""
        node = self.node("Cast", [value], name, dtype=to, shape=value.shape, attributes={"to": int(to)})
        if (producer := value.producer()) is not None:
            self.graph.insert_after(producer, node)
        else:
            self.graph.insert_before(self.graph[0], node)
        return node.outputs[0]

    def take_over(self, output: ir.Value, by: ir.Value, suffix: str) -> None:
        """Make ``by`` the graph output in place of ``output``, under its name."""
        name = output.name
        output.name = self.fresh(f"{name}_{suffix}")
        by.name = name
        self.graph.outputs[:] = [by if v is output else v for v in self.graph.outputs]


def drop_unused(graph: ir.Graph, values: Sequence[ir.Value]) -> None:
    """Unregister initializers that nothing reads any more."""
    for value in dict.fromkeys(values):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            graph.initializers.pop(str(value.name), None)
