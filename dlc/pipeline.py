"""Runs passes in order, and holds each to its promises: a valid model, the same interface, an honest ``modified``."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from dlc.errors import DlcError, ModelError, PassError, RuleError, raised_at
from dlc.interface import Interface
from dlc.passes.base import Pass, Rewritten, Site, all_nodes, graphs
from dlc.passes.rewrite import Rewrite
from dlc.tolerance import distance, reassociation
from dlc.types import Outputs


@dataclass(frozen=True, slots=True)
class PassRecord:
    """What one pass did."""

    name: str
    options: Mapping[str, Any]
    modified: bool
    sites: tuple[Site, ...]
    nodes_before: int
    nodes_after: int
    seconds: float


Observer = Callable[[Pass, ir.Model, PassRecord], None]
"""Called after each pass, with the model as the pass left it. Raise to stop the pipeline."""


Evaluate = Callable[[ir.Model], Outputs]
"""Runs a model on fixed feeds, without any optimisation of the runtime's own."""


def run(
    model: ir.Model, passes: Iterable[Pass], observers: Iterable[Observer] = (), *, evaluate: Evaluate | None = None
) -> list[PassRecord]:
    """Run passes on a model in place. PassError names the pass that broke a promise, and those that ran before.

    Where that is a rewrite of the user's own, it is a RuleError.
    With ``evaluate``, each pass that promises equal numbers is also held to that.
    """
    watching = tuple(observers)
    records: list[PassRecord] = []
    outputs = evaluate(model) if evaluate else {}
    interface, state = Interface.of(model), digest(model)
    for each in passes:
        nodes, owners, start = _count(model), _owners(model), time.perf_counter()
        try:
            result = each(model)
            state = _check(each, model, result, interface, state)
        except DlcError:
            raise
        except Exception as error:
            raise raised(each, error, f" (ran before: {_names(records)})") from error
        if evaluate and result.modified:
            outputs = _same_numbers(each, model, outputs, evaluate)
        del owners
        sites = result.sites if isinstance(result, Rewritten) else ()
        seconds = time.perf_counter() - start
        records.append(PassRecord(each.name, each.options, result.modified, sites, nodes, _count(model), seconds))
        for observe in watching:
            observe(each, model, records[-1])
    return records


def broken(each: Pass, problem: str) -> PassError | RuleError:
    """Return the error of who wrote a pass that broke a promise: us, or the user."""
    ours = not isinstance(each, Rewrite) or each.trusted
    return PassError(each.name, problem) if ours else RuleError(each.name, problem)


def raised(each: Pass, error: Exception, ran: str = "") -> PassError | RuleError:
    """Return the error of who wrote a pass that raised."""
    made = broken(each, f"{_root(error)}{ran}")
    return made if isinstance(made, PassError) else RuleError(each.name, f"{raised_at(error)}{_root(error)}")


def digest(model: ir.Model) -> int:
    """Hash of all that a model file holds, but the bytes of weights: those count by the tensor object that owns them.

    A pass that changes a weight registers a new tensor object. The hash is one of this process.
    """
    bodies: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    return hash((
        model.ir_version, model.doc_string, _items(model.metadata_props),
        *((each.name, _items(each.opset_imports), _graph(each)) for each in bodies),
    ))  # fmt: skip


def _graph(graph: ir.Graph | ir.Function) -> int:
    initializers = graph.initializers.items() if isinstance(graph, ir.Graph) else ()
    return hash((
        graph.name, graph.doc_string, _items(graph.metadata_props),
        tuple([(name, id(value.const_value), _typed(value)) for name, value in initializers]),
        tuple(map(_typed, graph.inputs)), tuple(map(_typed, graph.outputs)), tuple(map(_node, graph)),
    ))  # fmt: skip


def _node(node: ir.Node) -> int:
    return hash((
        node.name, node.op_identifier(), node.doc_string, _items(node.metadata_props),
        tuple([v.name if v is not None else None for v in node.inputs]), tuple(map(_typed, node.outputs)),
        tuple([(name, a.type, a.ref_attr_name, _attribute(a)) for name, a in sorted(node.attributes.items())]),
    ))  # fmt: skip


def _attribute(attr: ir.Attr) -> Hashable:
    if attr.is_ref():
        return None
    if attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return tuple(map(_graph, _graphs(attr)))
    if attr.type == ir.AttributeType.TENSOR:
        tensor = attr.as_tensor()
        return tensor.dtype, str(tensor.shape), id(tensor)
    return repr(attr.value)


def _typed(value: ir.Value) -> Hashable:
    kind, shape = value.type, value.shape
    return (
        value.name, kind.dtype if type(kind) is ir.TensorType else repr(kind), None if shape is None else shape.dims,
        value.doc_string, _items(value.metadata_props),
    )  # fmt: skip


def _items(properties: Mapping[str, Any]) -> Hashable:
    return tuple(sorted(properties.items())) if properties else ()


def _owners(model: ir.Model) -> list[object]:
    """Tensor objects that the digest counts by identity; held, so that no new tensor takes a freed one's place."""
    attributes = [
        a.value for n in all_nodes(model.graph) for a in n.attributes.values() if a.type == ir.AttributeType.TENSOR
    ]
    return [v.const_value for g in graphs(model.graph) for v in g.initializers.values()] + attributes


def _check(each: Pass, model: ir.Model, result: ir.passes.PassResult, promised: Interface, before: int) -> int:
    if (now := Interface.of(model)) != promised:
        raise broken(each, f"changed the model's interface: {promised.diff(now)}")
    if fault := malformed(model):
        raise broken(each, fault)
    after = digest(model)
    if (after != before) != result.modified:
        raise broken(each, f"reported modified={result.modified}, but the graph {_changed(after != before)}")
    return after


def _same_numbers(each: Pass, model: ir.Model, before: Outputs, evaluate: Evaluate) -> Outputs:
    try:
        after = evaluate(model)
    except ModelError as error:
        raise broken(each, f"left a model that does not run: {error}") from error
    apart, where = distance(after, before)
    if not each.changes_numbers and apart > (bound := reassociation(model)):
        raise broken(each, f"changed output {where!r} by {apart:.3g} of its largest value; bound {bound:.3g}")
    return after


def malformed(model: ir.Model) -> str | None:
    """Say what breaks the graph's form: a value used before it exists, or two values of one name."""
    return _malformed(model.graph, frozenset(), frozenset())


def _malformed(graph: ir.Graph, outer: frozenset[ir.Value], outer_names: frozenset[str]) -> str | None:
    """Check one graph; ``outer``: values of the graphs around it, which its nodes may read."""
    names = set(outer_names)
    known = set(outer)
    for value in (*graph.inputs, *(v for v in graph.initializers.values() if not v.is_graph_input())):
        if fault := _add(value, known, names):
            return fault
    for node in graph:
        for read in node.inputs:
            if read is not None and read not in known:
                return f"node {node.name!r} reads {read.name!r}, which nothing before it produces"
        inner = (g for attr in node.attributes.values() for g in _graphs(attr))
        faults = [_malformed(g, frozenset(known), frozenset(names)) for g in inner]
        faults += [_add(value, known, names) for value in node.outputs]
        if any(faults):
            return next(f for f in faults if f)
    missing = [v.name for v in graph.outputs if v not in known]
    return f"output {missing[0]!r} is not produced" if missing else None


def _add(value: ir.Value, known: set[ir.Value], names: set[str]) -> str | None:
    if value.name in names:
        return f"two values are named {value.name!r}"
    known.add(value)
    if value.name:
        names.add(value.name)
    return None


def _graphs(attr: ir.Attr) -> Iterator[ir.Graph]:
    if attr.is_ref():
        return
    if attr.type == ir.AttributeType.GRAPH:
        yield attr.as_graph()
    elif attr.type == ir.AttributeType.GRAPHS:
        yield from attr.as_graphs()


def _count(model: ir.Model) -> int:
    return sum(1 for _ in all_nodes(model.graph))


def _names(records: list[PassRecord]) -> str:
    return ", ".join(r.name for r in records) or "none"


def _changed(changed: bool) -> str:  # noqa: FBT001 - a word for a truth value
    return "changed" if changed else "did not change"


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
