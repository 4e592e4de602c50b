"""What is in a model: operators with their multiply-adds and bytes, weights, and every rewrite's sites."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from dlc import pipeline
from dlc.cost_table import CostTable
from dlc.costs import Costs
from dlc.errors import CapabilityError, RuleError, UserError
from dlc.feeds import seeded_feeds
from dlc.interface import Interface
from dlc.passes import naming
from dlc.passes.base import Site, all_nodes, clone
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.concrete_shapes import infer_shapes
from dlc.passes.weighted import label
from dlc.quantized_speed import Finding, findings, is_quantized
from dlc.recipe import Recipe, suggest
from dlc.runtimes.loaded import load_as_run
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.sources import onnx_files
from dlc.stages.defaults import rewrites
from dlc.stages.rewriting import rewrite as rewrite_measured
from dlc.target import detect
from dlc.types import Bytes
from dlc.versions import TABLE
from dlc.work import macs, traffic


@dataclass(frozen=True, slots=True)
class OpRow:
    """All nodes of one operator. ``macs`` and ``bytes`` (read and written) are None where a shape is unknown."""

    op: str
    nodes: int
    macs: int | None
    bytes: Bytes | None


@dataclass(frozen=True, slots=True)
class Inspection:
    """What ``dlc inspect`` prints. ``quantization``: what is wrong with a quantized model; None for one that is not."""

    opset: int
    ir_version: int
    producer: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: int
    parameters: int
    weight_bytes: Bytes
    sizes: Mapping[str, int]
    operators: tuple[OpRow, ...]
    sites: tuple[Site, ...]
    quantization: tuple[Finding, ...] | None = None


def inspect(
    path: Path, dims: Mapping[str, int], explain: str | None = None, *, recipe: Recipe | None = None,
    measure: bool = True, cache: Path | None = None,
) -> Inspection:  # fmt: skip
    """Read a model and describe it at the given sizes of its dynamic dimensions (default: the recipe's, else 1)."""
    model = onnx_files.read(path, max(TABLE.values())[0])
    _check_loads(path, model)
    interface = Interface.of(model)
    named = {d for t in interface.inputs for d in t.shape or () if isinstance(d, str)}
    if unknown := [d for d in dims if d not in named]:
        raise UserError(f"no dynamic dimension is named {unknown[0]!r}{suggest(unknown[0], sorted(named))}")
    recipe = recipe or Recipe(name="model", source=path)
    sizes = {n: dims.get(n) or (recipe.dims[n].typical if n in recipe.dims else 1) for n in sorted(named)}
    weights = [v.const_value for v in model.graph.initializers.values() if v.const_value is not None]
    return Inspection(
        opset=model.opset_imports.get("", 0),
        ir_version=model.ir_version,
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))),
        inputs=tuple(map(str, interface.inputs)),
        outputs=tuple(map(str, interface.outputs)),
        nodes=sum(1 for _ in all_nodes(model.graph)),
        parameters=sum(w.size for w in weights),
        weight_bytes=sum(w.nbytes for w in weights),
        sizes=sizes,
        sites=tuple(explain_sites(model, explain, sizes, recipe, measure=measure, cache=cache)) if explain else (),
        quantization=None if explain else _quantization(model, sizes, recipe, measure=measure),
        operators=_operators(model, sizes),
    )


def _quantization(
    model: ir.Model, sizes: Mapping[str, int], recipe: Recipe, *, measure: bool
) -> tuple[Finding, ...] | None:
    """Load a quantized model as a default session does, and time its nodes unless ``measure`` is False."""
    if not is_quantized(model):
        return None
    feeds = seeded_feeds(Interface.of(model), recipe.inputs, sizes, np.random.default_rng(0)) if measure else None
    named = clone(model)
    for node in all_nodes(named.graph):
        node.name = label(node)  # by which the profile tells what it ran
    return findings(named, load_as_run(named, feeds), detect())


def _check_loads(path: Path, model: ir.Model) -> None:
    """Raise ModelError if ONNX Runtime, where it is installed, refuses a model that is not newer than itself."""
    opset, ir_version = max(TABLE.values())
    if model.opset_imports.get("", 0) > opset or model.ir_version > ir_version:
        return
    config = SessionConfig(graph_optimization="none", entries={"session.disable_prepacking": "1"})
    with suppress(CapabilityError), OrtCpuRunner(path, config):
        pass


def explain_sites(
    model: ir.Model, rewrite: str, sizes: Mapping[str, int], recipe: Recipe, *, measure: bool = True,
    cache: Path | None = None,
) -> list[Site]:  # fmt: skip
    """Rewrite a copy of the model, and return the sites of one rewrite, or of ``all``; ``attention`` is short.

    Each place is measured at these sizes unless ``measure`` is False: then every form that fits is applied.
    """
    target = detect()
    passes = rewrites(target, recipe.rewrites, recipe.invariants)
    names = [p.name for p in passes]
    asked = names if rewrite == "all" else naming.matching(rewrite, names)
    if not asked:
        raise UserError(f"no rewrite is named {rewrite!r}{suggest(rewrite, ['all', *naming.known(names)])}")
    copy = clone(model)
    if measure:
        costs = Costs.at(target, Interface.of(copy), recipe.inputs, [sizes], table=CostTable(cache))
        done = rewrite_measured(copy, costs, passes)
        if broken := [bug for bug in done.bugs if isinstance(bug, RuleError) and bug.culprit in asked]:
            raise broken[0]
        records = done.records
    else:
        records = tuple(pipeline.run(copy, [Canonicalize(), *passes]))
    return [s for r in records if r.name in asked for s in r.sites]


def _operators(model: ir.Model, sizes: Mapping[str, int]) -> tuple[OpRow, ...]:
    common.ShapeInferencePass()(model)  # files need not state the types of intermediate values
    shapes = infer_shapes(model, sizes)

    def size(value: ir.Value) -> Bytes | None:
        if value.dtype in (None, ir.DataType.STRING) or (shape := shapes.get(str(value.name))) is None:
            return None
        assert value.dtype is not None
        return math.ceil(math.prod(shape) * value.dtype.itemsize)

    groups: dict[str, list[tuple[int | None, Bytes | None]]] = defaultdict(list)
    for node in model.graph:
        op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        groups[op].append((macs(node, shapes), traffic(node, size)))
    rows = [OpRow(op, len(c), _total([m for m, _ in c]), _total([b for _, b in c])) for op, c in groups.items()]
    return tuple(sorted(rows, key=lambda r: (-(r.macs or 0), -(r.bytes or 0), r.op)))


def _total(parts: list[int | None]) -> int | None:
    known = [p for p in parts if p is not None]
    return sum(known) if len(known) == len(parts) else None
