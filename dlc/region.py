"""Cuts some nodes out of a graph, as a model of their own that can be rewritten and timed."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

import onnx_ir as ir

from dlc.passes.base import holds_graph
from dlc.types import Feeds

ONE = ir.tensor([1.0], dtype=ir.DataType.FLOAT)


@dataclass(slots=True)
class Index:
    """The nodes of a model's main graph by name, each with its place in the order."""

    model: ir.Model
    places: dict[str, tuple[int, ir.Node]] = field(init=False)

    def __post_init__(self) -> None:
        self.places = {node.name: (i, node) for i, node in enumerate(self.model.graph) if node.name}


HUB = 16
"""A value with more readers is no path to what belongs together."""


def around(node: ir.Node, index: Index, size: int) -> list[ir.Node]:
    """Return up to ``size`` nodes nearest to a node, itself included, in graph order."""
    seen, queue = {node: None}, deque([node])
    while queue and len(seen) < size:
        each = queue.popleft()
        near = [p for v in each.inputs if v is not None and (p := v.producer()) is not None]
        near += [u.node for v in each.outputs if len(v.uses()) <= HUB for u in v.uses()]
        for other in near:
            if other not in seen and other.graph is node.graph and not holds_graph(other) and len(seen) < size:
                seen[other] = None
                queue.append(other)
    return sorted(seen, key=lambda n: index.places[str(n.name)][0])


def cut(index: Index, names: Collection[str]) -> ir.Model | None:
    """Return the named nodes as a model; weights are shared. None if not in the main graph, or one holds a subgraph.

    Inputs are the values that other nodes produce, outputs those that others read. A name the graph does not have is
    one that came and went within a pass; it is passed over.
    """
    places = sorted((place for name in names if (place := index.places.get(name)) is not None), key=lambda p: p[0])
    nodes = [node for _, node in places]
    if not nodes or any(map(holds_graph, nodes)):
        return None
    inside = set(nodes)
    values: dict[ir.Value, ir.Value] = {}
    inputs: list[ir.Value] = []
    initializers: list[ir.Value] = []
    copies: list[ir.Node] = []
    for node in nodes:
        for value in (v for v in node.inputs if v is not None and v not in values):
            values[value] = _copy(value)
            constant = value.is_initializer() and not value.is_graph_input()
            (initializers if constant else inputs).append(values[value])
            if constant:
                values[value].const_value = value.const_value
        outputs = [_copy(v) for v in node.outputs]
        values.update(zip(node.outputs, outputs, strict=True))
        copies.append(
            ir.Node(
                node.domain, node.op_type, [None if v is None else values[v] for v in node.inputs],
                list(node.attributes.values()), overload=node.overload, outputs=outputs, name=node.name,
            )
        )  # fmt: skip
    read_outside = [values[v] for n in nodes for v in n.outputs if v.name and _escapes(v, inside)]
    graph = ir.Graph(
        inputs, read_outside, nodes=copies, initializers=initializers, name="place",
        opset_imports=dict(index.model.graph.opset_imports),
    )  # fmt: skip
    return ir.Model(graph, ir_version=index.model.ir_version)


def idle(region: ir.Model, feeds: Feeds) -> ir.Model:
    """Return a model with the same inputs and as many outputs that computes nothing: what it takes is a call."""
    inputs, copies = [_copy(v) for v in region.graph.inputs], []
    constants = [
        ir.Value(name=f"constant_{i}", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]), const_value=ONE)
        for i in range(len(region.graph.outputs))
    ]
    for value in constants:
        output = ir.Value(name=f"{value.name}.copy", type=value.type, shape=value.shape)
        copies.append(ir.Node("", "Identity", [value], outputs=[output], name=f"{value.name}.identity"))
    graph = ir.Graph(
        inputs, [n.outputs[0] for n in copies], nodes=copies, initializers=constants, name="idle",
        opset_imports=dict(region.graph.opset_imports),
    )  # fmt: skip
    return typed(ir.Model(graph, ir_version=region.ir_version), feeds)


def typed(region: ir.Model, feeds: Feeds) -> ir.Model:
    """Give inputs whose type the graph does not state the type of what they are fed."""
    for value in region.graph.inputs:
        if value.dtype is None:
            value.type = ir.TensorType(ir.DataType.from_numpy(feeds[str(value.name)].dtype))
    return region


def _copy(value: ir.Value) -> ir.Value:
    return ir.Value(name=value.name, type=value.type, shape=value.shape)


def _escapes(value: ir.Value, inside: Collection[ir.Node]) -> bool:
    return value.is_graph_output() or any(use.node not in inside for use in value.uses())
