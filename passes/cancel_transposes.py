"""Transposes around operators that compute the same in any order of axes are cancelled or merged.

    Transpose(f(Transpose(x, p)), q)  =  Transpose(f'(x), p then q)        nothing, if q undoes p

From a Transpose on, the region is all that follows and takes any order of axes: elementwise operators, Concat, Split,
Softmax, Pad, Slice, reductions. It is computed in the order before the Transpose; what enters it otherwise is
transposed back, what leaves it is transposed then. That is done only where fewer Transposes are left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir

from dlc.passes.base import constant
from dlc.passes.edit import Edit
from dlc.passes.layouts import Order, after, flowing, follows, inverse, mapped, order, reordered
from dlc.passes.rewrite import Rewrite

SOFTMAX = 13
"""Opset since which Softmax works along one axis and ReduceSum and Split read their axes as operands."""


@dataclass(frozen=True)
class CancelTransposes(Rewrite):
    """Transposes that enter and leave a region of order-free operators are cancelled, or merged into fewer.

    ``reach``: nodes of the largest region. Not applied if no Transpose would be saved, or below opset 13.
    """

    name: ClassVar[str] = "cancel-transposes"
    reach: int = 64

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return each Transpose."""
        return (n for n in graph if n.op_type == "Transpose" and n.domain == "")

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Cancel around one Transpose."""
        if edit.model.graph.opset_imports.get("", 1) < SOFTMAX:
            return "below opset 13 operators name axes in other ways"
        if (p := order(node)) is None:
            return "the rank is unknown"
        widest, closed = (_region(node, p, self.reach, closed=c) for c in (False, True))
        region = max(widest, closed, key=lambda r: r.found - r.left)
        if not widest.nodes and not widest.exits:
            return "what follows depends on the order of axes"
        if region.left >= region.found:
            return f"no Transpose would be saved: {widest.found} now, {widest.left} then"
        _Move(region, edit).run()
        return None


@dataclass(slots=True)
class _Region:
    """What is computed in the order before Transposes by ``p``.

    ``entries``: the Transposes by ``p`` that lead in, by output.  ``exits``: those that read a value of the region.
    ``strangers``: values that enter a node otherwise.  ``leaving``: values of the region that others read as they are.
    """

    p: Order
    entries: dict[ir.Value, ir.Node] = field(default_factory=dict)
    nodes: dict[ir.Node, None] = field(default_factory=dict)
    exits: dict[ir.Node, None] = field(default_factory=dict)
    strangers: dict[tuple[ir.Node, ir.Value], None] = field(default_factory=dict)
    leaving: dict[ir.Value, None] = field(default_factory=dict)

    @property
    def found(self) -> int:
        """Transposes before; none where one both enters and leaves: then there is no one order to compute in."""
        tangled = any(t in self.exits for t in self.entries.values())
        return 0 if tangled else len(self.entries) + len(self.exits)

    @property
    def left(self) -> int:
        """Transposes after: entries with other readers, exits that do not cancel, and those that must be added."""
        kept = sum(v in self.leaving for v in self.entries)
        merged = sum(not _cancels(self.p, e) for e in self.exits)
        made = sum(v not in self.entries for v in self.leaving)
        return kept + merged + made + len(self.strangers)


def _region(start: ir.Node, p: Order, reach: int, *, closed: bool) -> _Region:
    """Collect the region that a Transpose leads to, nearest nodes first, and all that enters and leaves it.

    ``closed``: without nodes that would need another value transposed back.
    """
    region = _Region(p, {start.outputs[0]: start})
    pending, inside = deque([start.outputs[0]]), {start.outputs[0]}
    while pending and len(region.nodes) < reach:
        for use in pending.popleft().uses():
            node = use.node
            if node in region.nodes or node.graph is not start.graph or len(region.nodes) >= reach:
                continue
            if use.idx not in flowing(node):
                continue
            operands = [v for i in flowing(node) if (v := node.inputs[i]) is not None and v not in inside]
            entries = {v: t for v in operands if (t := v.producer()) is not None and _enters(t, start, p)}
            if not follows(node, len(p), inside | entries.keys()):
                continue
            if closed and any(v not in entries and constant(v) is None for v in operands):
                continue
            region.nodes[node] = None
            region.entries |= entries
            inside.update(entries, node.outputs)
            pending.extend((*entries, *node.outputs))
    _borders(region, start.graph)
    return region


def _enters(node: ir.Node, start: ir.Node, p: Order) -> bool:
    return node.op_type == "Transpose" and node.domain == "" and node.graph is start.graph and order(node) == p


def _borders(region: _Region, graph: ir.Graph | ir.Function | None) -> None:
    """Fill in what enters and leaves."""
    inside = [*region.entries, *(v for node in region.nodes for v in node.outputs)]
    for value in inside:
        for use in value.uses():
            exits = use.node.op_type == "Transpose" and use.node.domain == "" and use.node.graph is graph
            if exits and order(use.node) is not None:
                region.exits[use.node] = None
            elif use.node not in region.nodes or use.idx not in flowing(use.node):
                region.leaving[value] = None
        if value.is_graph_output():
            region.leaving[value] = None
    known = set(inside)
    for node in region.nodes:
        for i in flowing(node):
            operand = node.inputs[i]
            if operand is not None and operand not in known and constant(operand) is None:
                region.strangers[node, operand] = None


def _cancels(p: Order, leaving: ir.Node) -> bool:
    q = order(leaving)
    return q is not None and after(p, q) == tuple(range(len(p)))


class _Move:
    """Writes a region in the order before its Transposes."""

    def __init__(self, region: _Region, edit: Edit) -> None:
        self.region, self.edit, self.p = region, edit, region.p
        self.straight: dict[ir.Value, ir.Value] = {v: _input(t) for v, t in region.entries.items()}

    def run(self) -> None:
        """Write the nodes anew, then what leaves the region, and remove the old nodes."""
        region, edit = self.region, self.edit
        for node in _in_order(region):
            edit.insert_before(node, self._node(node))
        for leaving in region.exits:
            self._exit(leaving)
        for value in region.leaving:
            if value not in region.entries:
                self._leave(value)
        for node in [*reversed(_in_order(region)), *region.entries.values()]:
            edit.remove(node)

    def _node(self, node: ir.Node) -> ir.Node:
        change = mapped(node, self.p)
        inputs = list(node.inputs)
        for i in flowing(node):
            value = inputs[i]
            assert value is not None
            inputs[i] = self._operand(node, value)
        for i, array in change.operands.items():
            inputs += [None] * (i + 1 - len(inputs))
            inputs[i] = self.edit.constant(f"{node.name}.axes", array)
        attributes = {**node.attributes, **{a.name: a for a in ir.convenience.convert_attributes(change.attributes)}}
        outputs = [self._like(v) for v in node.outputs]
        self.straight.update(zip(node.outputs, outputs, strict=True))
        return ir.Node(
            node.domain, node.op_type, inputs, list(attributes.values()), outputs=outputs,
            name=self.edit.fresh(f"{node.name}.straight"),
        )  # fmt: skip

    def _operand(self, node: ir.Node, value: ir.Value) -> ir.Value:
        if value in self.straight:
            return self.straight[value]
        if constant(value) is not None:
            return reordered(value, self.p, self.edit)
        back = self._transpose(value, inverse(self.p), f"{value.name}.back")
        self.edit.insert_before(node, back)
        return back.outputs[0]

    def _exit(self, leaving: ir.Node) -> None:
        q, x = order(leaving), self.straight[_input(leaving)]
        assert q is not None
        if _cancels(self.p, leaving):
            if not self.edit.bypass(leaving, x):  # an output of the graph that repeats an input, or another output
                y = leaving.outputs[0]
                copy = self.edit.node("Identity", [x], f"{leaving.name}.copy", dtype=x.dtype, shape=y.shape)
                self.edit.replace(leaving, copy)
            return
        both = self._transpose(x, after(self.p, q), f"{leaving.name}.merged")
        self.edit.replace(leaving, both)

    def _leave(self, value: ir.Value) -> None:
        producer = value.producer()
        assert producer is not None
        turned = self._transpose(self.straight[value], self.p, f"{value.name}.turned")
        self.edit.insert_before(producer, turned)
        self.edit.stand_in(value, turned.outputs[0])

    def _transpose(self, x: ir.Value, p: Order, name: str) -> ir.Node:
        shape = None if x.shape is None else ir.Shape([x.shape[a] for a in p])
        node = self.edit.node("Transpose", [x], name, dtype=x.dtype, shape=shape)
        node.attributes["perm"] = ir.AttrInt64s("perm", list(p))
        return node

    def _like(self, value: ir.Value) -> ir.Value:
        shape = None if value.shape is None else ir.Shape([value.shape[a] for a in inverse(self.p)])
        return ir.Value(name=self.edit.fresh(f"{value.name}.straight"), type=value.type, shape=shape)


def _input(transpose: ir.Node) -> ir.Value:
    value = transpose.inputs[0]
    assert value is not None
    return value


def _in_order(region: _Region) -> list[ir.Node]:
    """Return the nodes of a region so that each comes after those that it reads."""
    done: dict[ir.Node, None] = {}
    pending = list(reversed(region.nodes))
    while pending:
        node = pending[-1]
        needed = [p for v in node.inputs if v is not None and (p := v.producer()) in region.nodes and p not in done]
        if not needed:
            done[pending.pop()] = None
        else:
            pending.extend(p for p in needed if p is not None)
    return list(done)
