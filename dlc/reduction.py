"""The least part of a graph that still fails: ends are found by bisection, then nodes are left out (delta debugging).

A part is some nodes of the main graph. What they read of others becomes an input, with the value that a real run has
there; what others would read of them becomes an output.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from dlc.delta import smallest
from dlc.passes.base import clone, subgraphs
from dlc.types import Array

Fails = Callable[[Sequence[int]], bool]
"""Whether the nodes at some places, on their own, fail as the whole does."""


def least(count: int, fails: Fails) -> list[int]:
    """Return the places of few nodes among so many, in order, that fail; all of them together do.

    None can be left out alone. The last node that is needed, and then the first, take log2(count) calls each, if
    whatever holds the culprit fails; where that is not so, the result fails all the same, and took longer to find.
    """
    end = _first(1, count, lambda n: fails(range(n)))
    start = end - _first(1, end, lambda n: fails(range(end - n, end)))
    return smallest(range(start, end), lambda kept: bool(kept) and fails(kept))


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """Return the least number from which on something holds; it holds for ``high``."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high


def without_constant_nodes(model: ir.Model) -> ir.Model:
    """Make each Constant an initializer, so that it stays constant when it is all that is left of a part's inputs."""
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return model


def part(model: ir.Model, kept: Collection[int]) -> ir.Model:
    """Return the nodes at some places of the main graph as a model; weights are shared."""
    copy = clone(model)
    graph, nodes = copy.graph, list(copy.graph)
    stay = [nodes[i] for i in sorted(kept)]
    gone = [node for i, node in enumerate(nodes) if i not in kept]
    there, inside = set(stay), {inner for node in stay for inner in _with_inner(node)}
    read_elsewhere = [
        v for node in stay for v in node.outputs
        if v.name and not v.is_graph_output() and any(use.node not in inside for use in v.uses())
    ]  # fmt: skip
    graph.outputs[:] = [v for v in graph.outputs if v.producer() in there] + read_elsewhere
    for value in _read_by(inside, gone):
        fed = ir.Value(name=value.name, type=value.type, shape=value.shape)
        for use in tuple(value.uses()):
            if use.node in inside:
                use.node.replace_input_with(use.idx, fed)
        graph.inputs.append(fed)
    graph.remove(gone, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.is_graph_output() and not any(use.node in inside for use in value.uses()):
            del graph.initializers[name]
    return copy


def drop_unread_inputs(model: ir.Model) -> None:
    """Leave out inputs that no node reads."""
    graph = model.graph
    graph.inputs[:] = [v for v in graph.inputs if v.uses() or v.is_graph_output()]


def feed(model: ir.Model, values: Mapping[str, Array]) -> None:
    """Give inputs of a part, whose type or shape the graph need not state, those of the values that they take."""
    for value in model.graph.inputs:
        if (array := values.get(str(value.name))) is not None:
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            if value.shape is None:
                value.shape = ir.Shape(array.shape)


def freeze(model: ir.Model, values: Mapping[str, Array]) -> None:
    """Make inputs of a part constants, so that it is fed as the whole is."""
    feed(model, values)
    graph = model.graph
    for value in [v for v in graph.inputs if v.name in values]:
        graph.inputs.remove(value)
        value.const_value = ir.tensor(values[str(value.name)], name=value.name)
        value.shape = ir.Shape(values[str(value.name)].shape)
        graph.register_initializer(value)


def _with_inner(node: ir.Node) -> Iterator[ir.Node]:
    yield node
    yield from (inner for graph in subgraphs(node) for inner in graph)


def _read_by(inside: Collection[ir.Node], gone: Iterable[ir.Node]) -> list[ir.Value]:
    return [v for node in gone for v in node.outputs if any(use.node in inside for use in v.uses())]
