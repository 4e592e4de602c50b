"""Runs passes in order, and holds each to its promises: a valid model, the same interface, an honest ``modified``."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from dlc.errors import DlcError, PassError
from dlc.interface import Interface
from dlc.passes.base import Pass, Rewritten, Site


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


def run(model: ir.Model, passes: Iterable[Pass], observers: Iterable[Observer] = ()) -> list[PassRecord]:
    """Run passes on a model in place. PassError names the pass that broke a promise, and those that ran before."""
    watching = tuple(observers)
    records: list[PassRecord] = []
    interface, state = Interface.of(model), digest(model)
    for each in passes:
        nodes, start = _count(model), time.perf_counter()
        try:
            result = each(model)
            state = _check(each, model, result, interface, state)
        except DlcError:
            raise
        except Exception as error:
            raise PassError(each.name, f"{_root(error)} (ran before: {_names(records)})") from error
        sites = result.sites if isinstance(result, Rewritten) else ()
        seconds = time.perf_counter() - start
        records.append(PassRecord(each.name, each.options, result.modified, sites, nodes, _count(model), seconds))
        for observe in watching:
            observe(each, model, records[-1])
    return records


def digest(model: ir.Model) -> str:
    """Hash of a graph's structure: names, nodes, attributes, types, and initializers by identity of their bytes' owner.

    Weights are not read: a pass that changes a weight registers a new tensor object.
    """
    seen = hashlib.sha256()
    for graph in (model.graph, *(f.graph for f in model.functions.values())):
        for node in ir.traversal.RecursiveGraphIterator(graph):
            seen.update(repr(node).encode())
        for name, value in graph.initializers.items():
            seen.update(f"{name}:{id(value.const_value)}:{value.dtype}:{value.shape}".encode())
        seen.update(str([(v.name, v.dtype, v.shape) for v in (*graph.inputs, *graph.outputs)]).encode())
    seen.update(f"{model.ir_version}{sorted(model.opset_imports.items())}".encode())
    return seen.hexdigest()


def _check(each: Pass, model: ir.Model, result: ir.passes.PassResult, promised: Interface, before: str) -> str:
    if (now := Interface.of(model)) != promised:
        raise PassError(each.name, f"changed the model's interface: {promised.diff(now)}")
    if fault := malformed(model):
        raise PassError(each.name, fault)
    after = digest(model)
    if (after != before) != result.modified:
        raise PassError(each.name, f"reported modified={result.modified}, but the graph {_changed(after != before)}")
    return after


def malformed(model: ir.Model) -> str | None:
    """Say what breaks the graph's form: a value used before it exists, or two values of one name."""
    names: set[str] = set()
    graph = model.graph
    known = {*graph.inputs, *graph.initializers.values()}
    for node in graph:
        for value in node.inputs:
            if value is not None and value not in known:
                return f"node {node.name!r} reads {value.name!r}, which nothing before it produces"
        known.update(node.outputs)
    for value in known:
        if value.name in names:
            return f"two values are named {value.name!r}"
        if value.name:
            names.add(value.name)
    missing = [v.name for v in graph.outputs if v not in known]
    return f"output {missing[0]!r} is not produced" if missing else None


def _count(model: ir.Model) -> int:
    return sum(1 for _ in ir.traversal.RecursiveGraphIterator(model.graph))


def _names(records: list[PassRecord]) -> str:
    return ", ".join(r.name for r in records) or "none"


def _changed(changed: bool) -> str:  # noqa: FBT001 - a word for a truth value
    return "changed" if changed else "did not change"


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
