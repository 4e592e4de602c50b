"""Where every activation of a graph lives, at given sizes of its dynamic dimensions.

Steps are the nodes of the main graph in file order. A buffer is alive from the step that writes it until the last step
that reads it, inclusive. Not in the arena, as in ONNX Runtime: graph inputs (the caller's), weights, and graph outputs
(they outlive the run and are handed to the caller), nor what weights alone determine (a dequantized weight), which
ONNX Runtime computes once, when it loads the model. With ``alias``, the output of an operator that only gives a tensor
another shape is the buffer of its input.

A shape that neither the graph nor ONNX shape inference gives is measured by a run that exposes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from dlc.errors import PassError, Unsupported
from dlc.passes.base import subgraphs
from dlc.passes.concrete_shapes import Shape, infer_shapes, infer_types
from dlc.passes.offsets import ALIGNMENT, Buffer, aligned, faults, lower_bound, place
from dlc.passes.weighted import label
from dlc.types import Bytes, Step

__all__ = ["Buffer", "Plan", "faults", "infer_shapes", "lower_bound", "plan"]

RESHAPES = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Operators whose output is their first input's bytes."""

NOTE = (
    "planned for the nodes of the file in file order, activations only: graph inputs, weights and what is computed "
    "from them alone, graph outputs and what an operator uses inside are not in the arena; a runtime that fuses nodes "
    "when it loads the model needs others"
)

Trace = Callable[[ir.Model, Sequence[str], Mapping[str, int]], Mapping[str, Shape]]
"""Measures the shapes of named tensors by running the model at given sizes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Offsets for one graph at one choice of sizes. ``order``: node names, step by step."""

    arena: Bytes
    lower_bound: Bytes
    buffers: tuple[Buffer, ...]
    offsets: Mapping[str, Bytes]
    order: tuple[str, ...]
    dims: Mapping[str, int]
    solver: str
    alignment: Bytes = ALIGNMENT
    note: str = NOTE


def plan(model: ir.Model, sizes: Mapping[str, int], *, alias: bool = True, trace: Trace | None = None) -> Plan:
    """Plan the activations of a model; PassError if the plan is wrong, Unsupported names a tensor without a size.

    ``trace`` measures what cannot be inferred; default: one run on ONNX Runtime's CPU provider with seeded feeds.
    """
    buffers = tuple(_buffers(model, sizes, alias=alias, trace=trace or _trace))
    placed = place(buffers)
    if fault := next(faults(buffers, placed.offsets), None):
        raise PassError("plan-memory", fault)
    offsets = {b.name: placed.offsets[b.name] for b in buffers}
    order = tuple(label(node) for node in model.graph)
    return Plan(placed.arena, lower_bound(buffers), buffers, offsets, order, dict(sizes), placed.solver)


def live_bytes(buffers: Iterable[Buffer], steps: int) -> list[Bytes]:
    """Bytes alive at each step."""
    change = [0] * (steps + 1)
    for b in buffers:
        change[b.first] += aligned(b.size)
        change[b.last] -= aligned(b.size)
    live, now = [], 0
    for step in range(steps):
        now += change[step]
        live.append(now)
    return live


def _buffers(model: ir.Model, sizes: Mapping[str, int], *, alias: bool, trace: Trace) -> Iterator[Buffer]:
    graph = model.graph
    lifetimes = _lifetimes(graph, alias=alias)
    shapes = infer_shapes(model, sizes)
    if missing := [str(v.name) for v in lifetimes if v.name not in shapes]:
        shapes |= trace(model, missing, sizes)
    types = infer_types(model)
    for value, (first, last) in lifetimes.items():
        if (size := _bytes(value, types.get(value, value.dtype), shapes)) > 0:
            yield Buffer(str(value.name), size, first, last)


def _lifetimes(graph: ir.Graph, *, alias: bool) -> dict[ir.Value, tuple[Step, Step]]:
    """First step and the step after the last, of each planned value."""
    root: dict[ir.Value, ir.Value] = {}
    lifetimes: dict[ir.Value, tuple[Step, Step]] = {}
    outside = {*graph.inputs, *graph.initializers.values(), *graph.outputs}
    for step, node in enumerate(graph):
        if _folds(node, outside):
            outside.update(node.outputs)
            continue
        for value in _reads(node):
            owner = root.get(value, value)
            if owner in lifetimes:
                lifetimes[owner] = (lifetimes[owner][0], step + 1)
        for value in node.outputs:
            if value in outside or not value.name:
                continue
            source = node.inputs[0] if alias and not node.domain and node.op_type in RESHAPES else None
            if source is not None:
                root[value] = root.get(source, source)
            else:
                lifetimes[value] = (step, step + 1)
    return lifetimes


def _folds(node: ir.Node, known: set[ir.Value]) -> bool:
    """Whether a node's outputs follow from weights alone."""
    inputs = [v for v in node.inputs if v is not None]
    fed = any(v.is_graph_input() or v not in known for v in inputs)
    return not fed and not node.op_type.startswith("Random") and (bool(inputs) or node.op_type == "Constant")


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """Inputs of a node, and all that the nodes of its subgraphs read."""
    yield from (v for v in node.inputs if v is not None)
    for graph in subgraphs(node):
        yield from (v for inner in graph for v in inner.inputs if v is not None)
        yield from graph.outputs


def _bytes(value: ir.Value, dtype: ir.DataType | None, shapes: Mapping[str, Shape]) -> Bytes:
    sized = dtype not in (None, ir.DataType.UNDEFINED, ir.DataType.STRING)
    if dtype is None or not sized or (value.type is not None and not isinstance(value.type, ir.TensorType)):
        raise Unsupported(
            f"tensor {value.name!r} of type {value.type} has no fixed size in bytes; it cannot be planned"
        )
    if (shape := shapes.get(str(value.name))) is None:
        raise Unsupported(f"the shape of tensor {value.name!r} is unknown; give the size of every dynamic dimension")
    elements = 1
    for extent in shape:
        elements *= extent
    return -(-elements * dtype.bitwidth // 8)


def _trace(model: ir.Model, names: Sequence[str], sizes: Mapping[str, int]) -> Mapping[str, Shape]:
    from dlc.runtimes.trace import traced_shapes

    return traced_shapes(model, names, sizes)
