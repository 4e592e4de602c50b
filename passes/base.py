"""What every pass shares: sites, the result that carries them, and the few questions all rewrites ask of a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import onnx_ir as ir

from dlc.types import Array, Bytes


@dataclass(frozen=True, slots=True)
class Site:
    """One place where a rewrite could apply. ``reason`` is None where it was applied, else why it was not.

    ``before``, ``after``: names of the nodes that were replaced and of those in their place; what is timed to decide.
    A node in both was changed in place, or is context without which the difference would not show. ``ratio``: how long
    the place takes afterwards, as a share of before, where that was measured.
    """

    rewrite: str
    node: str
    op: str
    reason: str | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    ratio: float | None = None

    @property
    def applied(self) -> bool:
        """Whether the rewrite was applied here."""
        return self.reason is None


@dataclass
class Rewritten(ir.passes.PassResult):
    """A pass result with the sites that were considered, in graph order."""

    sites: tuple[Site, ...] = field(default=())


class Pass(ir.passes.InPlacePass):
    """A rewrite: a frozen dataclass whose fields are its options.

    ``changes_numbers``: a precision pass; its results are judged by the harness, never compared for equality.
    ``notes``: what the user should know of how it was made.
    """

    name: ClassVar[str]
    changes_numbers: ClassVar[bool] = False
    notes: tuple[str, ...] = ()

    @property
    def options(self) -> Mapping[str, Any]:
        """The options, as the manifest records them."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.repr}  # type: ignore[arg-type]


def rewritten(model: ir.Model, sites: list[Site]) -> Rewritten:
    """Result of a rewrite that changed the model exactly where a site was applied."""
    return Rewritten(model, modified=any(s.applied for s in sites), sites=tuple(sites))


def constant(value: ir.Value | None) -> Array | None:
    """Array of an initializer or Constant node, else None. A graph input is never constant, even with a default."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """Return the element of a one-element constant of rank 0 or 1, else None: a higher rank would shape a result."""
    array = constant(value)
    return float(array.reshape(())) if array is not None and array.size == 1 and array.ndim <= 1 else None


def only_user(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads a value, else None: no reader, several, one in a subgraph, or a graph output."""
    users, producer = tuple(value.uses()), value.producer()
    if len(users) != 1 or value.is_graph_output():
        return None
    home = producer.graph if producer is not None else value.graph
    return users[0].node if users[0].node.graph is home else None


def holds_graph(node: ir.Node) -> bool:
    """Whether a node is an If, a Loop, a Scan, or anything else with a graph of its own."""
    return any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())


def subgraphs(node: ir.Node) -> list[ir.Graph]:
    """Return the graphs that a node holds, and those that their nodes hold."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            found += graphs(attribute.as_graph())
        elif attribute.type is ir.AttributeType.GRAPHS:
            found += [inner for each in attribute.as_graphs() for inner in graphs(each)]
    return found


def graphs(graph: ir.Graph) -> list[ir.Graph]:
    """Return a graph and all that its nodes hold; ``Graph.subgraphs`` takes several times as long on a large one."""
    return [graph, *(inner for node in graph if node.attributes for inner in subgraphs(node))]


def all_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield the nodes of a graph in order; those of the graphs that one holds follow it."""
    for node in graph:
        yield node
        if node.attributes:
            yield from (inner for held in subgraphs(node) for inner in held)


def weight_bytes(model: ir.Model) -> Bytes:
    """Bytes of all initializers."""
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)


def clone(model: ir.Model) -> ir.Model:
    """Copy a model; the weights are shared.

    ``ir.Model.clone`` shares the type objects as well, so that a dtype set in one copy would show in the other.
    """
    copy = model.clone()
    for graph in graphs(copy.graph):
        for value in (*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)):
            value.type = ir.TensorType(kind.dtype) if type(kind := value.type) is ir.TensorType else deepcopy(kind)
    return copy
