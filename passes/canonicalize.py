"""Bring a graph into one form: no functions, no constants to compute, no dead or repeated nodes, unique names.

Identity, neutral arithmetic, what is one number everywhere, and what readers broadcast themselves are eliminated here;
all else is a pass of onnx_ir or a rule of onnxscript.
Results stay equal up to the order of FP32 sums. BatchNormalization is left alone: ``fold-batch-norm`` folds it and
reports where.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from dlc.interface import Extent
from dlc.logs import silent
from dlc.passes.base import Pass, Rewritten, Site, graphs
from dlc.passes.exact_rules import exact_rules, misfolded
from dlc.passes.extents import extents
from dlc.passes.gate_order import orders_gates
from dlc.passes.intervals import Intervals
from dlc.passes.name_sizes import name_sizes
from dlc.passes.neutral import drop_neutral
from dlc.passes.share_sizes import share_sizes
from dlc.passes.uniform import fold_uniform
from dlc.pipeline import digest

ROUNDS = 8
"""Real models settle in two or three rounds; a rule that never settles must not hang a compile."""


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Canonical form of a graph; its outputs and interface stay what they are.

    ``max_fold_input``, ``max_fold_output``: elements of the largest tensor that constant folding reads and writes.
    ``max_transpose``: elements of the largest weight that a Transpose, or an order of gates, is folded into.
    Sites are the Identity nodes; each is eliminated or kept for a reason.
    """

    name: ClassVar[str] = "canonicalize"
    max_fold_input: int = 1 << 13
    max_fold_output: int = 1 << 18
    max_transpose: int = 1 << 26

    def call(self, model: ir.Model) -> Rewritten:
        """Repeat all steps until nothing changes."""
        before = state = digest(model)
        promised = _Promise.of(model.graph)
        applied: list[Site] = []
        kept: list[Site] = []
        with silent("onnxscript", "onnx_ir"):
            for _ in range(ROUNDS):
                sites = self._round(model, promised)
                applied += [s for s in sites if s.applied]
                kept = [s for s in sites if not s.applied]
                last, state = state, digest(model)
                if state == last:
                    break
        return Rewritten(model, modified=state != before, sites=(*applied, *kept))

    def _round(self, model: ir.Model, promised: _Promise) -> list[Site]:
        before = set(model.graph)
        ir.passes.Sequential(
            common.InlinePass(),
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            common.LiftSubgraphInitializersToMainGraphPass(),
            common.NameFixPass(_NodesByType()),
            self._fold_constants(model),
        )(model)
        name_sizes(model)
        known = Intervals(model)
        for graph in graphs(model.graph):
            share_sizes(graph)
            fold_uniform(graph, known)
        ir.passes.Sequential(
            exact_rules(model.graph.opset_imports.get("", 1)),
            common.RemoveUnusedNodesPass(),
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            common.DeduplicateInitializersPass(),
        )(model)
        if not any(_draws(node) for node in model.graph.all_nodes()):
            common.CommonSubexpressionEliminationPass()(model)
        for graph in graphs(model.graph):
            drop_neutral(graph, known)
        _name_copies(model.graph, before, promised)
        sites = [s for graph in graphs(model.graph) for s in _eliminate_identities(graph)]
        ir.passes.Sequential(
            common.RemoveUnusedNodesPass(),
            common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
            common.RemoveUnusedOpsetsPass(),
            common.OutputFixPass(),
        )(model)
        _name_copies(model.graph, before, promised)
        ir.passes.Sequential(common.TopologicalSortPass(), common.NameFixPass(_NodesByType()))(model)
        promised.restore(model.graph)
        _clear_notes(model)
        return sites

    def _fold_constants(self, model: ir.Model) -> ir.passes.InPlacePass:
        from onnxscript.optimizer._constant_folding import FoldConstantsPass

        declared = {d for v in model.graph.inputs for d in extents(v) or ()} - {None}

        class Folding(FoldConstantsPass):  # type: ignore[misc]
            """Infers what is not stated in the terms of the inputs; the rest of a large graph is most of the work."""

            def process_node(self, node: ir.Node, is_function: bool) -> Any:  # noqa: FBT001 - the library's signature
                if not misfolded(node):
                    return super().process_node(node, is_function)
                self._do_inference(node)
                return None

            def _do_inference(self, node: ir.Node) -> None:
                shapes = [extents(v) for v in node.outputs if v.name]
                if not any(
                    s is None or any(isinstance(d, str | None) and d not in declared for d in s) for s in shapes
                ):
                    return
                noted = [v.shape for v in node.outputs]
                for value in node.outputs:
                    value.shape = None
                super()._do_inference(node)
                for value, note in zip(node.outputs, noted, strict=True):
                    value.shape = _settled(value.shape, note, declared)

        def fold(node: ir.Node) -> bool | None:
            if _draws(node):
                return False
            sizes = [v.const_value.size for v in node.inputs if v is not None and v.const_value is not None]
            if sum(sizes) > self.max_transpose:
                return False
            return True if orders_gates(node) else None

        folding: ir.passes.InPlacePass = Folding(
            shape_inference=True, input_size_limit=self.max_fold_input, output_size_limit=self.max_fold_output,
            should_fold=fold,
        )  # fmt: skip
        return folding


def _draws(node: ir.Node) -> bool:
    """Whether a node gives other numbers at each run; onnx_ir knows of Random* and Multinomial alone."""
    return node.op_type == "Bernoulli" or (node.op_type == "Dropout" and len(node.inputs) > 2)


@dataclass(frozen=True, slots=True)
class _Promise:
    """Names, types and shapes of a graph's inputs and outputs: folding may sharpen or rename them."""

    inputs: Sequence[tuple[str | None, Any, ir.Shape | None]]
    outputs: Sequence[tuple[str | None, Any, ir.Shape | None]]

    @classmethod
    def of(cls, graph: ir.Graph) -> _Promise:
        return cls(*([(v.name, v.type, _copy(v.shape)) for v in side] for side in (graph.inputs, graph.outputs)))

    def restore(self, graph: ir.Graph) -> None:
        kept = [*zip(graph.inputs, self.inputs, strict=True), *zip(graph.outputs, self.outputs, strict=True)]
        for value, (name, kind, shape) in kept:
            if value.name != name:
                free_name(graph, name or "")
                value.name = name
            value.type, value.shape = kind, _copy(shape)


def _name_copies(graph: ir.Graph, before: Collection[ir.Node], promised: _Promise) -> None:
    """Name the Identity nodes made for outputs that became one value after the output: the same in every round."""
    for value, (name, _, _) in zip(graph.outputs, promised.outputs, strict=True):
        if (node := value.producer()) is not None and node.op_type == "Identity" and node not in before:
            node.name = f"{name}_identity"


def free_name(graph: ir.Graph, name: str) -> None:
    """Rename whatever value of a graph, or of its subgraphs, is called ``name``."""
    values = {v.name: v for v in _values(graph)}
    if (holder := values.get(name)) is not None:
        holder.name = next(n for i in range(1, 1 << 30) if (n := f"{name}_{i}") not in values)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    for each in graphs(graph):
        yield from each.inputs
        yield from each.initializers.values()
        for node in each:
            yield from node.outputs


def _eliminate_identities(graph: ir.Graph) -> Iterator[Site]:
    for node in list(graph):
        if node.op_type == "Identity" and node.domain == "" and node.inputs[0] is not None:
            reason = _kept_because(graph, node.inputs[0], node.outputs[0])
            if reason is None:
                _bypass(graph, node, node.inputs[0], node.outputs[0])
            yield Site("eliminate-identity", node.name or "", node.op_type, reason)


def _kept_because(graph: ir.Graph, x: ir.Value, y: ir.Value) -> str | None:
    if not y.is_graph_output():
        return None
    producer = x.producer()
    if producer is None:
        return "output repeats an input or an initializer"
    if x.is_graph_output():
        return "output repeats another output"
    return None if producer.graph is graph else "output repeats a value of the outer graph"


def _bypass(graph: ir.Graph, node: ir.Node, x: ir.Value, y: ir.Value) -> None:
    is_output, name, kind, shape = y.is_graph_output(), y.name, y.type, y.shape
    ir.convenience.replace_all_uses_with(y, x, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    if is_output:
        x.name, x.type, x.shape = name, kind, shape


class _NodesByType:
    """Names for nodes that have none."""

    def generate_node_name(self, node: ir.Node) -> str:
        return node.name or f"node_{node.op_type}"

    def generate_value_name(self, value: ir.Value) -> str:
        return value.name or "value"


def _clear_notes(model: ir.Model) -> None:
    """Drop documentation and metadata: exporters write stack traces there, with the paths of the machine."""
    model.doc_string = None
    for graph in graphs(model.graph):
        graph.doc_string = None
        graph.metadata_props.clear()
        for value in (*graph.inputs, *graph.initializers.values()):
            _clear_value(value)
        for node in graph:
            node.doc_string = None
            node.metadata_props.clear()
            for value in node.outputs:
                _clear_value(value)


def _clear_value(value: ir.Value) -> None:
    value.doc_string = None
    value.metadata_props.clear()


def _settled(inferred: ir.Shape | None, noted: ir.Shape | None, declared: Collection[object]) -> ir.Shape | None:
    """Return what inference found, with the names that the file notes for what it could not tell.

    The file is believed only where it does not contradict: onnx's own inference (1.23, ``data_prop``) notes a Reshape
    by a slice of a shape as if nothing had been cut off.
    """
    if inferred is None:
        return noted
    if noted is None or len(inferred) != len(noted):
        return inferred
    return ir.Shape([_size(d, n, declared) for d, n in zip(inferred, noted, strict=True)])


def _size(inferred: int | ir.SymbolicDim, noted: int | ir.SymbolicDim, declared: Collection[object]) -> Extent:
    known, stated = (d if isinstance(d, int) else d.value for d in (inferred, noted))
    if isinstance(known, int) or known in declared:
        return known
    return stated if isinstance(stated, int) or stated in declared else known


def _copy(shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None else ir.Shape(list(shape))
