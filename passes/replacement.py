"""What a user's rule puts in the place of what it matched, from the rewriter's hands into the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir

from dlc.passes.base import subgraphs
from dlc.passes.edit import Edit


@dataclass(frozen=True, slots=True)
class Replacement:
    """Nodes and initializers that a rule made, not yet in the graph, and the value that stands for each result.

    Not applied if a result
    - is a graph output whose name its replacement cannot take: an input, an initializer, or another output;
    - is replaced by itself, or by the value that replaces another result;
    - is read by what replaces it;
    - would change its element type;
    - is read by a node that comes before an input of the replacement (patterns with several results).
    """

    edit: Edit
    root: ir.Node
    matched: tuple[ir.Node, ...]
    results: tuple[tuple[ir.Value, ir.Value], ...]
    nodes: tuple[ir.Node, ...]
    constants: tuple[ir.Value, ...]
    domains: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, root: ir.Node, found: Any, edit: Edit) -> Replacement:
        """Name and type what the rewriter returns (a ``ReplacementSubgraph``); Constant nodes become initializers."""
        if not all(isinstance(v, ir.Value) for v in found.new_outputs):
            raise TypeError("the replacement must return values of the graph, one for each result of the pattern")
        base = root.name or str(root.outputs[0].name)
        lifted: dict[ir.Value, ir.Value] = {}
        constants, nodes = list(found.new_initializers), []
        for value in constants:
            value.name = edit.fresh(f"{base}.{value.name}")
        for node in found.new_nodes:
            if (constant := _constant(node, edit, base)) is not None:
                lifted[node.outputs[0]] = constant
                ir.convenience.replace_all_uses_with(node.outputs[0], constant)
                constants.append(constant)
                continue
            node.name = edit.fresh(f"{base}.{node.op_type.lower()}")
            for i, value in enumerate(node.outputs):
                value.name = node.name if i == 0 else edit.fresh(f"{node.name}.{i}")
            _infer(node, edit.model)
            nodes.append(node)
        new = [lifted.get(v, v) for v in found.new_outputs]
        return cls(
            edit, root, tuple(found.match.nodes), tuple(zip(found.match.outputs, new, strict=True)), tuple(nodes),
            tuple(v for v in constants if v.uses() or v in new),
            tuple((domain, version or 1) for domain, version in sorted(found.used_opsets, key=str)),
        )  # fmt: skip

    def refusal(self, order: Mapping[ir.Node, int]) -> str | None:  # noqa: PLR0911 - one return a guard
        """Say why the replacement has no place in the graph."""
        new = [value for _, value in self.results]
        if len(set(new)) < len(new):
            return "one value replaces two results"
        for old, value in self.results:
            if old is value:
                return f"the rule gives back {old.name!r}, which it matched"
            if any(use.node in self.nodes for use in old.uses()):
                return f"the replacement reads {old.name!r}, which it replaces"
            if None not in (old.dtype, value.dtype) and old.dtype is not value.dtype:
                return f"{old.name!r} is {_kind(old)}, its replacement {_kind(value)}"
            if old.is_graph_output() and not self._may_be_renamed(value):
                return f"{old.name!r} is a graph output, and its replacement {value.name!r} keeps its own name"
        if len(self.results) > 1 and self._anchor(order) is None:
            return "a result is read before all inputs of its replacement are there"
        return None

    def apply(self, order: dict[ir.Node, int]) -> None:
        """Put the replacement into the graph, and remove what nothing reads any more."""
        edit = self.edit
        anchor = self._anchor(order) if len(self.results) > 1 else self.root
        assert anchor is not None
        for domain, version in self.domains:
            edit.require(domain, version)
        for value in self.constants:
            edit.graph.register_initializer(value)
        edit.insert_before(anchor, self.nodes)
        if order:
            order.update(dict.fromkeys(self.nodes, order[anchor]))
        for old, new in self.results:
            old.type, old.shape = old.type or new.type, new.shape if old.shape is None else old.shape
            if new.producer() in self.nodes or old.is_graph_output():
                edit.stand_in(old, new)
            else:
                ir.convenience.replace_all_uses_with(old, new)
        for node in self.matched:
            edit.remove(node)

    def discard(self) -> None:
        """Let the nodes that the rule made read nothing of the graph any more."""
        for node in self.nodes:
            for i in range(len(node.inputs)):
                node.replace_input_with(i, None)

    def _may_be_renamed(self, value: ir.Value) -> bool:
        producer = value.producer()
        made_here = producer is not None and (producer in self.nodes or producer.graph is self.edit.graph)
        return made_here and not value.is_graph_output()

    def _anchor(self, order: Mapping[ir.Node, int]) -> ir.Node | None:
        """Return the node before which the new nodes go: the first reader of a result; None if an input comes later."""
        graph, inside = self.edit.graph, {*self.matched, *self.nodes}
        users = [use.node for old, _ in self.results for use in old.uses()]
        readers = [n for user in users if (n := _in_graph(user, graph)) is not None and n not in inside]
        values = [v for n in self.nodes for v in n.inputs] + [new for _, new in self.results]
        read = {v.producer() for v in values if v is not None}
        needed = [order[n] for n in read if n is not None and n in order and n.graph is graph]
        last = max((n for n in self.matched), key=lambda n: order[n])
        first = min([*readers, last], key=lambda n: order[n])
        return first if max(needed, default=-1) < order[first] else None


def _in_graph(node: ir.Node, graph: ir.Graph) -> ir.Node | None:
    """Return the node of this graph that is, or holds, a node."""
    if node.graph is graph:
        return node
    return next((each for each in graph if any(n is node for inner in subgraphs(each) for n in inner)), None)


def _constant(node: ir.Node, edit: Edit, base: str) -> ir.Value | None:
    """Return a Constant node of numbers as a value that an initializer may become."""
    if node.op_type != "Constant" or node.domain != "":
        return None
    tensor = ir.convenience.get_const_tensor(node.outputs[0])
    if tensor is None or tensor.dtype is ir.DataType.STRING:
        return None
    name = edit.fresh(f"{base}.constant")
    const = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
    return ir.Value(name=name, type=ir.TensorType(const.dtype), shape=const.shape, const_value=const)


def _infer(node: ir.Node, model: ir.Model) -> None:
    """Give a node's outputs the types and shapes that its operator's definition infers: later passes need them."""
    imports = {"": 1, **model.graph.opset_imports}
    try:
        schema = onnx.defs.get_schema(node.op_type, imports.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return
    read = {str(v.name): v for v in node.inputs if v is not None}
    if any(v.type is None for v in read.values()):
        return
    small = {n: v.const_value for n, v in read.items() if v.const_value is not None and v.const_value.size <= 64}
    try:
        found = onnx.shape_inference.infer_node_outputs(
            schema, ir.serde.serialize_node(node), {n: ir.serde.serialize_value(v).type for n, v in read.items()},
            {n: ir.serde.serialize_tensor(t) for n, t in small.items()},
            opset_imports=[onnx.helper.make_opsetid(d, v) for d, v in imports.items()], ir_version=model.ir_version,
        )  # fmt: skip
    except onnx.shape_inference.InferenceError:
        return
    for value in node.outputs:
        if (proto := found.get(str(value.name))) is not None:
            value.type = ir.serde.deserialize_type_proto_for_type(proto)
            value.shape = ir.serde.deserialize_type_proto_for_shape(proto)


def _kind(value: ir.Value) -> str:
    return value.dtype.name if value.dtype else "unknown"
