"""Where every activation of a graph lives, at given sizes of its dynamic dimensions.

Steps are the nodes of the main graph in file order. A buffer is alive from the step that writes it until the last step
that reads it, inclusive. Not in the arena, as in ONNX Runtime: graph inputs (the caller's), weights, and graph outputs
(they outlive the run and are handed to the caller), nor what weights alone determine (a dequantized weight), which
ONNX Runtime computes once, when it loads the model. With ``alias``, the output of an operator that only gives a tensor
another shape is the buffer of its input.

A shape that neither the graph nor ONNX shape inference gives is measured by a run that exposes it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from dlc.allocations import Allocation, RunPlan
from dlc.errors import PassError, Unsupported
from dlc.passes.concrete_shapes import Shape, infer_shapes, infer_types
from dlc.passes.liveness import Kernel, assumed, liveness, outside
from dlc.passes.offsets import ALIGNMENT, Buffer, aligned, faults, lower_bound
from dlc.passes.pack import pack
from dlc.passes.weighted import label
from dlc.types import Bytes

__all__ = ["Buffer", "Plan", "faults", "infer_shapes", "lower_bound", "plan"]

NOTE = (
    "planned for the nodes of the file in file order, activations only: graph inputs, weights and what is computed "
    "from them alone, graph outputs and what an operator uses inside are not in the arena; a runtime that fuses nodes "
    "when it loads the model needs others"
)

Trace = Callable[[ir.Model, Sequence[str], Mapping[str, int]], Mapping[str, Shape]]
"""Measures the shapes of named tensors by running the model at given sizes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Offsets for one graph at one choice of sizes. ``order``: names of its nodes, step by step.

    ``shapes``: of every input, which the plan is for. ``allocations``: those of a run, one by one, where it was traced.
    ``every_order``: bytes that no order of the nodes is below, where known; ``given_bytes``: the peak of the order that
    was given. ``outputs_bytes``: of what the run hands out, which the arena does not hold. ``runtime``: the version of
    ONNX Runtime that the plan was compared with. ``options_arena``: what its own arena needs to run in this order,
    outputs included, where the run was traced.
    """

    arena: Bytes
    lower_bound: Bytes
    buffers: tuple[Buffer, ...]
    offsets: Mapping[str, Bytes]
    order: tuple[str, ...]
    dims: Mapping[str, int]
    solver: str
    alignment: Bytes = ALIGNMENT
    note: str = NOTE
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    allocations: tuple[Allocation, ...] = ()
    every_order: Bytes | None = None
    given_bytes: Bytes | None = None
    outputs_bytes: Bytes | None = None
    runtime: str = ""
    options_arena: Bytes | None = None

    @property
    def run(self) -> RunPlan:
        """What an allocator needs of it."""
        return RunPlan(self.shapes, self.allocations, self.arena, self.lower_bound, self.solver)

    @property
    def proved(self) -> bool:
        """Whether no order and no offsets need a smaller arena."""
        return self.every_order is not None and self.arena <= self.every_order


def plan(model: ir.Model, sizes: Mapping[str, int], *, alias: bool = True, trace: Trace | None = None) -> Plan:
    """Plan the activations of a model; PassError if the plan is wrong, Unsupported names a tensor without a size.

    ``trace`` measures what cannot be inferred; default: one run on ONNX Runtime's CPU provider with seeded feeds.
    """
    buffers = tuple(_buffers(model, sizes, alias=alias, trace=trace or _trace))
    return placed(buffers, model.graph, sizes)


def placed(buffers: Sequence[Buffer], order: Iterable[ir.Node], sizes: Mapping[str, int]) -> Plan:
    """Give each buffer its offset, and check them; PassError if two share bytes while both are alive."""
    found = pack(buffers)
    if fault := next(faults(buffers, found.offsets), None):
        raise PassError("plan-memory", fault)
    offsets = {b.name: found.offsets[b.name] for b in buffers}
    names = tuple(label(node) for node in order)
    return Plan(found.arena, lower_bound(buffers), tuple(buffers), offsets, names, dict(sizes), found.solver)


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
    beside = outside(graph)
    for node in graph:
        if _folds(node, beside):
            beside.update(node.outputs)
    kernels = assumed if alias else _separate
    lifetimes = liveness(list(graph), graph, defaultdict(lambda: 1), kernels, beside).buffers
    values = {v.name: v for node in graph for v in node.outputs}
    shapes = infer_shapes(model, sizes)
    if missing := [b.name for b in lifetimes if b.name not in shapes]:
        shapes |= trace(model, missing, sizes)
    types = infer_types(model)
    for each in lifetimes:
        value = values[each.name]
        if (size := _bytes(value, types.get(value, value.dtype), shapes)) > 0:
            yield replace(each, size=size)


def _separate(_: ir.Node) -> Kernel:
    """Every output has bytes of its own."""
    return Kernel()


def _folds(node: ir.Node, known: set[ir.Value]) -> bool:
    """Whether a node's outputs follow from weights alone."""
    inputs = [v for v in node.inputs if v is not None]
    fed = any(v.is_graph_input() or v not in known for v in inputs)
    return not fed and not node.op_type.startswith("Random") and (bool(inputs) or node.op_type == "Constant")


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
