"""Puts one node in the place of another, and removes what is left behind."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from dlc.passes.emit import drop_unused


def take_over(old: ir.Node, new: ir.Node) -> tuple[ir.Value | None, ...]:
    """Let a new node stand in for an old one, under the name of its output; return what the old one read."""
    theirs, mine, read = old.outputs[0], new.outputs[0], tuple(old.inputs)
    name, kind, shape = theirs.name, theirs.type, theirs.shape
    ir.convenience.replace_all_uses_with(theirs, mine, replace_graph_outputs=True)
    assert old.graph is not None
    old.graph.remove(old, safe=True)
    mine.name, mine.type, mine.shape = name, kind, shape
    return read


def prune(graph: ir.Graph, values: Iterable[ir.Value | None]) -> None:
    """Remove values that nothing reads any more, and what only they read."""
    pending = [v for v in values if v is not None]
    while pending:
        value = pending.pop()
        node = value.producer()
        if node is None:
            if value.is_initializer():
                drop_unused(graph, [value])
        elif node.graph is graph and not any(v.uses() or v.is_graph_output() for v in node.outputs):
            pending.extend(v for v in node.inputs if v is not None)
            graph.remove(node, safe=True)
