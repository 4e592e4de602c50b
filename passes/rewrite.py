"""Rewrites: passes that visit places one by one, so that each can be timed, and kept or left, on its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

import onnx_ir as ir

from dlc.passes.base import Pass, Rewritten, Site, clone, graphs, rewritten
from dlc.passes.edit import Edit, Fits, Survey
from dlc.passes.weighted import label


@dataclass(frozen=True, kw_only=True)
class Rewrite(Pass):
    """One form of computation in place of another with the same result.

    ``skip``: labels of nodes at which the rewrite must not apply, each with the reason, as measuring found them.
    ``looks_prepared``: whether the rewrite fits depends on what it prepares.
    ``trusted``: False for a user's own, whose numbers are always compared.
    """

    looks_prepared: ClassVar[bool] = False
    skip: Mapping[str, str] = field(default_factory=dict, repr=False)
    trusted: bool = field(default=True, repr=False)

    def alternatives(self) -> tuple[Self, ...]:
        """Return the forms to choose from, by measurement: this pass with different options."""
        return (self,)

    @abstractmethod
    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return the nodes of one graph at which the rewrite may apply; each becomes a site."""

    @abstractmethod
    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Rewrite at one node and return None, or change nothing and return why not.

        ``edit`` may be one that only looks (``survey``) and stops at its first change: call it before any other change.
        """

    def prepare(self, model: ir.Model) -> None:
        """Change what concerns the whole model; called once, before any site."""

    def survey(self, model: ir.Model) -> list[tuple[ir.Node, str | None]]:
        """Return every candidate, with the reason why the rewrite does not fit there or None; change nothing.

        Where what fits depends on what is prepared, that is prepared in a copy: the nodes are that copy's.
        """
        if self.looks_prepared and any(any(True for _ in self.candidates(graph)) for graph in graphs(model.graph)):
            model = clone(model)
            self.prepare(model)
        found = []
        for graph in graphs(model.graph):
            look = Survey(model, graph)
            found += [(node, self._look(node, look)) for node in self.candidates(graph)]
        return found

    def _look(self, node: ir.Node, look: Survey) -> str | None:
        if (reason := self.skip.get(label(node))) is not None:
            return reason
        try:
            return self.rewrite(node, look)
        except Fits:
            return None

    def call(self, model: ir.Model) -> Rewritten:
        """Visit every candidate of the model's graphs, in order."""
        self.prepare(model)
        taken = names(model)
        sites: list[Site] = []
        for graph in graphs(model.graph):
            edit = Edit(model, graph, taken)
            found = list(self.candidates(graph))
            sites += [self._visit(node, edit) for node in found if node.graph is graph]
        return rewritten(model, sites)

    def _visit(self, node: ir.Node, edit: Edit) -> Site:
        name, op = label(node), node.op_type
        if (reason := self.skip.get(name)) is not None:
            return Site(self.name, name, op, reason)
        edit.begin()
        if (reason := self.rewrite(node, edit)) is not None:
            return Site(self.name, name, op, reason)
        return Site(self.name, name, op, None, edit.before, edit.after)


def names(model: ir.Model) -> set[str | None]:
    """Return the names of all values and nodes of a model."""
    taken: set[str | None] = set()
    for graph in graphs(model.graph):
        taken.update(v.name for v in (*graph.inputs, *graph.initializers.values()))
        for node in graph:
            taken.add(node.name)
            taken.update(v.name for v in node.outputs)
    return taken
