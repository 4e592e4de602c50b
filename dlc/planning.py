"""From a model to a plan that ONNX Runtime follows: optimise, probe, order, place, and compare with a traced run.

What is planned is the graph that ONNX Runtime makes of a model when it loads it, written down with its nodes in the
planned order. Loaded with ``in_planned_order``, no optimiser moves them, and no buffer is reused but as planned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from dlc.errors import CapabilityError, PassError, Unsupported
from dlc.interface import Interface, sizes_of
from dlc.passes import schedule
from dlc.passes.arena import least_arena
from dlc.passes.base import all_nodes
from dlc.passes.liveness import Kernel, Kernels, Liveness, executed, liveness, tasks
from dlc.passes.offsets import lower_bound
from dlc.passes.plan_memory import Plan, placed
from dlc.passes.plan_run import plan_run
from dlc.runtimes.footsteps import Footstep, footsteps, in_planned_order
from dlc.runtimes.kernels import Prober
from dlc.runtimes.loaded import load_as_run
from dlc.runtimes.ort import runtime_version
from dlc.runtimes.session import SessionConfig, check_cpu
from dlc.runtimes.tensor_types import Types, byte_size, ort_type
from dlc.types import Bytes, Feeds

APART = 0.01
"""The share of the peak by which liveness and a traced run may differ: nothing is rounded on either side, so that any
difference is a wrong assumption; this one leaves room for the few bytes that kernels keep from run to run."""

SLACK: Bytes = 1 << 12
"""Bytes of shapes and indices, in tensors of their own, that a traced run may hold beside those of a tiny plan."""

NOTE = (
    "planned for the graph that ONNX Runtime makes of the model, in the planned order, and compared with a traced run; "
    "graph inputs, weights and graph outputs are not in the arena"
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A graph with its nodes in the planned order, its plan, and the session options that follow it.

    ``others``: plans of that order for other sizes.
    """

    model: ir.Model
    plan: Plan
    config: SessionConfig
    others: tuple[Plan, ...] = ()


def prepare(
    model: ir.Model | Path, feeds: Feeds, config: SessionConfig | None = None, *, reorder: bool = True
) -> Prepared:
    """Plan a model for inputs of the shapes of these feeds; ``reorder`` off keeps the order that it has.

    PassError if the model of liveness is more than 1 % from a traced run; Unsupported names a tensor without a size, or
    a provider that is not the CPU.
    """
    config = config or SessionConfig()
    check_cpu(config.provider)
    graph = load_as_run(model, config=config).graph
    name_nodes(graph)
    followed = in_planned_order(config)
    given = _Walk.of(graph, feeds, followed)
    kernels = given.corrected(Prober(graph, given.types, followed).kernels(feeds))
    lives = given.check(kernels)
    problem, sizes = tasks(given.order, graph.graph, given.sizes, kernels)
    found = schedule.schedule(problem, sizes)
    walk = given
    if reorder and list(found.order) != list(range(len(problem))):
        move_nodes(graph.graph, [given.order[i] for i in found.order if i < len(given.order)])
        moved = _Walk.of(graph, feeds, followed)
        found_lives = moved.check(moved.corrected(kernels))
        if lower_bound(found_lives.buffers) < lower_bound(lives.buffers):
            walk, lives = moved, found_lives
        else:  # Shape and Size move of their own accord, and some kernel did not write over its input there
            move_nodes(graph.graph, given.order)
    plan = placed(lives.buffers, walk.order, sizes_of(Interface.of(graph), feeds))
    plan = replace(
        plan, note=NOTE, every_order=found.bound, runtime=runtime_version(),
        given_bytes=schedule.peak(problem, sizes, range(len(problem))),
        shapes={name: array.shape for name, array in feeds.items()}, outputs_bytes=max(lives.escaping, default=0),
    )  # fmt: skip
    return Prepared(graph, _traced(plan, graph, feeds, followed), followed)


def prepare_sizes(model: ir.Model | Path, feeds: Sequence[Feeds], config: SessionConfig | None = None) -> Prepared:
    """Plan a model for several sizes, the largest last: a file has one order of nodes, and theirs is it."""
    *smaller, largest = feeds
    prepared = prepare(model, largest, config)
    others = (prepare(prepared.model, each, prepared.config, reorder=False).plan for each in smaller)
    return replace(prepared, others=tuple(others))


@dataclass(frozen=True, slots=True)
class _Walk:
    """One traced run: the nodes as they ran, what each took, and type, shape and bytes of every tensor."""

    graph: ir.Graph
    order: list[ir.Node]
    steps: Sequence[Footstep]
    types: Types
    sizes: Mapping[str, Bytes]

    @classmethod
    def of(cls, model: ir.Model, feeds: Feeds, config: SessionConfig) -> _Walk:
        """Run a graph whose nodes have names of their own."""
        order = executed(model.graph)
        ours = {node.name for node in order}
        steps = [s for s in footsteps(model, feeds, config) if s.node in ours]
        if [n.name for n in order] != [s.node for s in steps]:
            ran = next((s.node for n, s in zip(order, steps, strict=False) if n.name != s.node), "nothing")
            raise PassError("plan-memory", f"ONNX Runtime ran {ran!r} out of the order of the file")
        types = {name: ort_type(array) for name, array in feeds.items()}
        for node, step in zip(order, steps, strict=True):
            types |= dict(zip(_written(node, step), step.outputs, strict=True))
        return cls(model.graph, order, steps, types, {name: byte_size(*kind) for name, kind in types.items()})

    def corrected(self, kernels: Kernels) -> Kernels:
        """Take back what a kernel could write over, where it did not in this run.

        ONNX Runtime lets it only if it knows, when it loads the graph, that both shapes are equal.
        """
        apart: set[ir.Node] = set()

        def of(node: ir.Node) -> Kernel:
            return replace(kernels(node), in_place=()) if node in apart else kernels(node)

        while True:
            lives = liveness(self.order, self.graph, self.sizes, of)
            rows = zip(self.order, self.steps, lives.taken, strict=True)
            if not (found := [n for n, step, taken in rows if step.taken > taken and of(n).in_place]):
                return of
            apart.add(found[0])

    def check(self, kernels: Kernels) -> Liveness:
        """Say which buffers are alive when; PassError names the first step that is more than 1 % of the peak off."""
        lives = liveness(self.order, self.graph, self.sizes, kernels)
        expected = [held + out for held, out in zip(lives.held, lives.escaping, strict=True)]
        before = self.steps[0].held - self.steps[0].taken if self.steps else 0  # what the session holds anyway
        room = APART * max(expected, default=0)
        for step, bytes_ in zip(self.steps, expected, strict=True):
            if abs(step.held - before - bytes_) > room:
                raise PassError(
                    "plan-memory",
                    f"at node {step.node!r} tensors hold {step.held - before:,} bytes in a traced run, "
                    f"but {bytes_:,} by the model of liveness",
                )
        return lives


def _written(node: ir.Node, step: Footstep) -> list[str]:
    names = [v.name for v in node.outputs if v.name]
    if len(names) != len(step.outputs):
        raise Unsupported(
            f"node {node.name!r} ({node.op_type}) writes something that is no tensor; it cannot be planned"
        )
    return names


def _traced(plan: Plan, model: ir.Model, feeds: Feeds, config: SessionConfig) -> Plan:
    """Add the allocations of a run, one by one, where the library that traces them is at hand."""
    from dlc.runtimes.planned import first_runs

    try:
        first, later = first_runs(model, feeds, config)
    except CapabilityError:
        return plan
    run = plan_run(later, plan.shapes)
    if abs(run.lower_bound - plan.lower_bound) > APART * plan.lower_bound + SLACK:
        raise PassError(
            "plan-memory",
            f"a traced run had {run.lower_bound:,} bytes alive at once, the plan says {plan.lower_bound:,}",
        )
    return replace(
        plan, allocations=run.allocations, arena=max(plan.arena, run.arena), options_arena=least_arena(first, later)
    )  # fmt: skip


def name_nodes(model: ir.Model) -> None:
    """Give every node a name of its own, by which a profile tells what it ran."""
    seen: set[str] = set()
    for i, node in enumerate(all_nodes(model.graph)):
        if not node.name or node.name in seen:
            node.name = next(n for k in range(i, i + len(seen) + 2) if (n := f"{node.op_type}_{k}") not in seen)
        seen.add(node.name)


def move_nodes(graph: ir.Graph, order: Sequence[ir.Node]) -> None:
    """Put the nodes of a graph in an order; constants come first."""
    named = set(order)
    first = [n for n in graph if n not in named]
    graph.remove([*first, *order])
    graph.extend([*first, *order])
