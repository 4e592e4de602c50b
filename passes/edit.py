"""How a rewrite changes a graph: each change is noted, so that the place can be cut out and timed, before and after."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import onnx_ir as ir

from dlc.passes.emit import Emitter
from dlc.passes.raise_opset import raisable
from dlc.passes.weighted import label


class Edit(Emitter):
    """Changes one graph of a model, place by place. Between two calls of ``begin`` all changes belong to one place."""

    def __init__(self, model: ir.Model, graph: ir.Graph, taken: set[str | None] | None = None) -> None:
        self.model = model
        super().__init__(graph, taken)
        self._shared: dict[Hashable, ir.Value] = {}
        self._raisable: dict[int, bool] = {}
        self.begin()

    def begin(self) -> None:
        """Forget what was noted: the next place starts."""
        self._before: dict[str, None] = {}
        self._after: dict[str, None] = {}

    @property
    def before(self) -> tuple[str, ...]:
        """Nodes of the place as it was."""
        return tuple(self._before)

    @property
    def after(self) -> tuple[str, ...]:
        """Nodes of the place as it is now."""
        return tuple(self._after)

    def context(self, *nodes: ir.Node) -> None:
        """Note nodes that were changed in place, or that must be timed along for the difference to show."""
        for node in nodes:
            self._before[label(node)] = self._after[label(node)] = None

    def insert_before(self, anchor: ir.Node, nodes: ir.Node | Sequence[ir.Node]) -> None:
        """Put new nodes before a node."""
        new = [nodes] if isinstance(nodes, ir.Node) else list(nodes)
        self.graph.insert_before(anchor, new)
        self._after.update(dict.fromkeys(map(label, new)))

    def replace(self, old: ir.Node, new: ir.Node | Sequence[ir.Node]) -> None:
        """Put new nodes in the place of ``old``, the last of them under the name of its one output.

        What only ``old`` read is removed.
        """
        nodes = [new] if isinstance(new, ir.Node) else list(new)
        self.insert_before(old, nodes)
        self.stand_in(old.outputs[0], nodes[-1].outputs[0])
        self.remove(old)

    def stand_in(self, old: ir.Value, new: ir.Value) -> None:
        """Let all that read ``old`` read ``new``, a value just made, under the old name, type and shape."""
        name, kind, shape = old.name, old.type, old.shape
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        old.name = self.fresh(f"{name}.replaced")
        new.name, new.type, new.shape = name, kind, shape

    def bypass(self, node: ir.Node, value: ir.Value) -> bool:
        """Remove a node whose one output equals ``value``; False, with nothing changed, if that would rename ``value``.

        A graph output keeps its name: ``value`` takes it if it is computed in this graph and is no output itself.
        """
        y = node.outputs[0]
        if y.is_graph_output():
            producer = value.producer()
            if producer is None or producer.graph is not self.graph or value.is_graph_output():
                return False
            self.stand_in(y, value)
        else:
            ir.convenience.replace_all_uses_with(y, value)
        self.remove(node)
        return True

    def remove(self, node: ir.Node) -> None:
        """Remove a node that nothing reads any more, and what only it read."""
        pending = [node]
        while pending:
            each = pending.pop()
            if each.graph is not self.graph or any(v.uses() or v.is_graph_output() for v in each.outputs):
                continue
            read = [v for v in each.inputs if v is not None]
            self._after.pop(label(each), None)
            self._before[label(each)] = None
            self.graph.remove(each, safe=True)
            self.drop_unused(read)
            pending.extend(p for v in read if (p := v.producer()) is not None)

    def drop_unused(self, values: Iterable[ir.Value | None]) -> None:
        """Unregister initializers that nothing reads any more."""
        for value in values:
            if value is None or not value.is_initializer() or value.uses():
                continue
            if not value.is_graph_output() and not value.is_graph_input() and value.graph is not None:
                value.graph.initializers.pop(str(value.name), None)

    def once(self, key: Hashable, make: Callable[[], ir.Value]) -> ir.Value:
        """Return what was made for this key; several places share it, and the first makes it."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def raisable(self, opset: int) -> bool:
        """Whether the model may be raised to an opset, if it is not there; the model is searched once."""
        if opset not in self._raisable:
            self._raisable[opset] = raisable(self.model, opset)
        return self._raisable[opset]

    def require(self, domain: str, version: int = 1) -> None:
        """Import an operator set, if the model does not yet."""
        self.model.graph.opset_imports.setdefault(domain, version)


class Fits(Exception):  # noqa: N818 - a signal, not an error
    """A rewrite was about to change the graph."""


class Survey(Edit):
    """Lets a rewrite look, and stops it where it would change something."""

    def __init__(self, model: ir.Model, graph: ir.Graph) -> None:
        super().__init__(model, graph, set())

    def _stop(self, *_: object, **__: object) -> Any:
        raise Fits

    fresh = context = insert_before = stand_in = bypass = remove = drop_unused = once = require = _stop
