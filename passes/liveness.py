"""Which tensors share a buffer, and at which steps each buffer is alive, as ONNX Runtime runs a graph.

A value that is a graph input, a weight, a constant or a graph output is not in the arena: the first three are there
before, and outputs go to the caller. The rest follow ONNX Runtime's allocation planner (``allocation_planner.cc``) with
reuse off: each value has its own buffer, from the step that writes it until the last step that reads it (the last of
all if none does), unless its kernel hands an input on (``alias``), or writes over one that nothing else reads any more
(``in_place``).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from dlc.passes.base import subgraphs
from dlc.passes.offsets import Buffer, aligned
from dlc.passes.schedule import Task
from dlc.passes.weighted import label
from dlc.types import Bytes, Step

RESHAPES = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Operators whose output is their first input's bytes."""
SCRATCH = "#scratch"
"""Follows the name of a node in the name of the buffer that its kernel uses while it runs."""

Sizes = Mapping[str, Bytes]
"""Bytes of each value by name."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """What the kernel of one node does with memory, beside reading inputs and writing outputs.

    ``alias``: an output that is an input's bytes. ``in_place``: an output, and an input that it may be written over.
    ``scratch``: bytes that it takes and gives back while it runs.
    """

    alias: tuple[tuple[int, int], ...] = ()
    in_place: tuple[tuple[int, int], ...] = ()
    scratch: Bytes = 0


Kernels = Callable[[ir.Node], Kernel]


def assumed(node: ir.Node) -> Kernel:
    """Return what is known of a kernel that was not probed: operators that only change a shape hand their input on."""
    return Kernel(alias=((0, 0),)) if not node.domain and node.op_type in RESHAPES else Kernel()


@dataclass(frozen=True, slots=True)
class Liveness:
    """Buffers of one order. ``held``: bytes that the arena holds when a step ends, before its inputs are let go.

    ``escaping``: bytes of the graph outputs written so far, which are held as well. ``taken``: bytes that a step takes
    for what it writes, graph outputs included.
    """

    buffers: tuple[Buffer, ...]
    held: tuple[Bytes, ...]
    escaping: tuple[Bytes, ...]
    taken: tuple[Bytes, ...]


@dataclass(slots=True)
class _Owners:
    """Who owns the bytes of each value: itself, or the value it was handed on from."""

    outside: set[ir.Value]
    left: Counter[ir.Value]
    of: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def owner(self, value: ir.Value) -> ir.Value:
        return self.of.get(value, value)

    def hand_on(self, source: ir.Value, value: ir.Value) -> None:
        owner = self.owner(source)
        self.of[value] = owner
        self.left[owner] += self.left[value]
        if owner in self.outside:
            self.outside.add(value)


def liveness(
    order: Sequence[ir.Node], graph: ir.Graph, sizes: Sizes, kernels: Kernels = assumed,
    beside: Collection[ir.Value] | None = None,
) -> Liveness:  # fmt: skip
    """Follow the nodes of a graph in an order; ``sizes`` holds every value that is written.

    ``beside``: values that the arena does not hold; default: those of ``outside``.
    """
    owners = _Owners(
        set(outside(graph) if beside is None else beside), Counter(v for node in order for v in reads(node))
    )
    arena = _Arena(sizes)
    held, escaping, taken = list[Bytes](), list[Bytes](), list[Bytes]()
    for step, node in enumerate(order):
        kernel = kernels(node)
        fresh = [v for j, v in enumerate(node.outputs) if v.name and not _shared(owners, node, j, kernel, sizes)]
        before = arena.holding + arena.out
        for value in fresh:
            arena.write(value, step, escapes=value.is_graph_output(), beside=value in owners.outside)
        taken.append(arena.holding + arena.out - before)
        held.append(arena.holding)
        escaping.append(arena.out)
        if kernel.scratch:
            arena.buffers.append(Buffer(label(node) + SCRATCH, kernel.scratch, step, step + 1))
        for value in reads(node):
            owners.left[owners.owner(value)] -= 1
        for value in set(map(owners.owner, reads(node))):
            if not owners.left[value]:
                arena.let_go(value, step)
    for value in list(arena.since):  # what nothing reads is let go when the run ends
        arena.let_go(value, len(order) - 1)
    arena.buffers.sort(key=lambda b: (b.first, b.last, b.name))
    return Liveness(tuple(arena.buffers), tuple(held), tuple(escaping), tuple(taken))


@dataclass(slots=True)
class _Arena:
    """What is alive, since when; the buffers that were, and the bytes that went out."""

    sizes: Sizes
    since: dict[ir.Value, Step] = field(default_factory=dict)
    buffers: list[Buffer] = field(default_factory=list)
    holding: Bytes = 0
    out: Bytes = 0

    def write(self, value: ir.Value, step: Step, *, escapes: bool, beside: bool) -> None:
        size = self.sizes[str(value.name)]
        if escapes:
            self.out += size
        elif not beside and size:
            self.since[value] = step
            self.holding += size

    def let_go(self, value: ir.Value, step: Step) -> None:
        if value in self.since:
            size = self.sizes[str(value.name)]
            self.buffers.append(Buffer(str(value.name), size, self.since.pop(value), step + 1))
            self.holding -= size


def _shared(owners: _Owners, node: ir.Node, output: int, kernel: Kernel, sizes: Sizes) -> bool:
    """Whether an output takes no bytes of its own; then say whose it has."""
    value = node.outputs[output]
    if value.is_graph_output():
        return False
    for j, i in kernel.alias:
        if j == output and (source := node.inputs[i]) is not None:
            owners.hand_on(source, value)
            return True
    for j, i in kernel.in_place:
        source = node.inputs[i]
        if j != output or source is None:
            continue
        owner = owners.owner(source)
        if owner not in owners.outside and owners.left[owner] == 1 and sizes[str(owner.name)] == sizes[str(value.name)]:
            owners.hand_on(source, value)
            return True
    return False


def outside(graph: ir.Graph) -> set[ir.Value]:
    """Return the values that are there before a run, or outlive it."""
    constants = (v for node in graph if node.op_type == "Constant" and not node.domain for v in node.outputs)
    return {*graph.inputs, *graph.initializers.values(), *graph.outputs, *constants}


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the inputs of a node, each as often as it is read, and all that the nodes of its subgraphs read."""
    yield from (v for v in node.inputs if v is not None)
    for graph in subgraphs(node):
        yield from (v for inner in graph for v in inner.inputs if v is not None)
        yield from graph.outputs


def executed(graph: ir.Graph) -> list[ir.Node]:
    """Return the nodes in the order of ``ExecutionOrder.PRIORITY_BASED``: the file's, but Shape and Size at once."""
    nodes = [n for n in graph if not (n.op_type == "Constant" and not n.domain)]
    place = {node: i for i, node in enumerate(nodes)}
    missing = {node: {p for v in reads(node) if (p := v.producer()) in place and p is not node} for node in nodes}
    followers: dict[ir.Node, list[ir.Node]] = {node: [] for node in nodes}
    for node, producers in missing.items():
        for producer in producers:
            followers[producer].append(node)

    def key(node: ir.Node) -> tuple[bool, int]:
        return node.op_type not in ("Shape", "Size"), place[node]

    ready = [(key(n), n) for n in nodes if not missing[n]]
    heapq.heapify(ready)
    order: list[ir.Node] = []
    while ready:
        _, node = heapq.heappop(ready)
        order.append(node)
        for follower in followers[node]:
            missing[follower].discard(node)
            if not missing[follower]:
                heapq.heappush(ready, (key(follower), follower))
    return order


def tasks(
    order: Sequence[ir.Node], graph: ir.Graph, sizes: Sizes, kernels: Kernels = assumed
) -> tuple[list[Task], list[Bytes]]:
    """Return the nodes as a scheduler sees them, and the aligned sizes of the buffers that they touch.

    A last task more reads what no node does, and therefore stays until the end, if there is anything.
    """
    place = {node: i for i, node in enumerate(order)}
    owners = _Owners(outside(graph), Counter())
    number: dict[ir.Value, int] = {}
    found: list[Task] = []
    for node in order:
        kernel, written = kernels(node), list[ir.Value]()
        handed = dict(kernel.alias)
        for j, value in enumerate(node.outputs):
            if not value.name or value.is_graph_output():
                continue
            if j in handed and (source := node.inputs[handed[j]]) is not None:
                owners.hand_on(source, value)
            elif value not in owners.outside:
                number[value] = len(number)
                written.append(value)
        read = {number[o] for v in reads(node) if (o := owners.owner(v)) in number and o not in written}
        found.append(
            Task(
                after=frozenset(place[p] for v in reads(node) if (p := v.producer()) in place and p is not node),
                reads=tuple(sorted(read)),
                writes=tuple(number[v] for v in written),
                in_place=tuple(_overwrites(node, kernel, owners, number, sizes)),
                scratch=aligned(kernel.scratch),
            )
        )
    read_by_any = {b for task in found for b in task.reads}
    if unread := tuple(b for b in number.values() if b not in read_by_any):
        found.append(Task(after=frozenset(range(len(order))), reads=unread))
    return found, [aligned(sizes[str(v.name)]) for v in number]


def _overwrites(
    node: ir.Node, kernel: Kernel, owners: _Owners, number: Mapping[ir.Value, int], sizes: Sizes
) -> Iterator[tuple[int, int]]:
    """Yield each output that may be written over an input, and the first such input that is as large and read once."""
    read, taken = Counter(reads(node)), set[int]()
    for j, i in kernel.in_place:
        source, value = node.inputs[i], node.outputs[j]
        if source is None or read[source] > 1 or value not in number or number[value] in taken:
            continue
        owner = owners.owner(source)
        if owner in number and sizes[str(owner.name)] == sizes[str(value.name)]:
            taken.add(number[value])
            yield number[value], number[owner]
