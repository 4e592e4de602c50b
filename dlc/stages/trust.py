"""Whether a user's rewrite is what it claims: its numbers are compared before it is let into the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from dlc import pipeline
from dlc.costs import Costs
from dlc.errors import RuleError
from dlc.interface import Interface, sizes_of
from dlc.passes.base import clone
from dlc.passes.rewrite import Rewrite
from dlc.passes.weighted import label
from dlc.pipeline import Evaluate, PassRecord
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.stages.choosing import Chosen
from dlc.types import Feeds, Outputs


def evaluator(costs: Costs, *, everywhere: bool = False) -> Evaluate:
    """Run a graph on the seeded feeds, ONNX Runtime's own optimisations off; ``everywhere``: at all measured sizes."""
    config = SessionConfig(graph_optimization="none")

    def evaluate(model: ir.Model) -> Outputs:
        found: dict[str, Outputs] = {}
        with OrtCpuRunner(model, config) as runner:
            for feeds in costs.points if everywhere else (costs.feeds,):
                found[_where(model, feeds) if everywhere else ""] = runner.run(feeds)
        return {f"{name}{at}": array for at, outputs in found.items() for name, array in outputs.items()}

    return evaluate


def apply(form: Rewrite, chosen: Mapping[str, Chosen], model: ir.Model, evaluate: Evaluate | None = None) -> PassRecord:
    """Apply a form at the places that chose it."""
    skip = {name: c.reason or "another form is faster" for name, c in chosen.items() if c.form is not form}
    [record] = pipeline.run(model, [replace(form, skip={**form.skip, **skip})], evaluate=evaluate)
    return record


def fault(forms: Sequence[Rewrite], chosen: Mapping[str, Chosen], model: ir.Model, costs: Costs) -> RuleError | None:
    """Say what is wrong with a user's rewrite, at the first place that shows it alone; None if nothing is.

    It is applied to copies of the model, whose numbers must stay within ``dlc.tolerance.reassociation``.
    """
    evaluate = evaluator(costs, everywhere=True)
    together = _tried(forms, chosen, model, evaluate)
    if together is None:
        return None
    ops = {label(node): node.op_type for node in model.graph}
    places = [name for name, c in chosen.items() if c.form is not None]
    for name in places:
        alone = {n: c if n == name else Chosen(None, "another place") for n, c in chosen.items()}
        if (error := _tried(forms, alone, model, evaluate)) is not None:
            return RuleError(error.culprit, error.problem, f"node {name!r} ({ops.get(name)})")
    return RuleError(together.culprit, together.problem, f"its {len(places)} places together")


def left_out(chosen: Mapping[str, Chosen], error: RuleError) -> dict[str, Chosen]:
    """Return that no place gets a form, for this reason."""
    reason = f"left out: {error.problem}"
    return {name: c if c.form is None else Chosen(None, reason, c.cost) for name, c in chosen.items()}


def _tried(
    forms: Sequence[Rewrite], chosen: Mapping[str, Chosen], model: ir.Model, evaluate: Evaluate
) -> RuleError | None:
    copy = clone(model)
    try:
        for form in forms:
            apply(form, chosen, copy, evaluate)
    except RuleError as error:
        return error
    return None


def _where(model: ir.Model, feeds: Feeds) -> str:
    sizes = sizes_of(Interface.of(model), feeds)
    return f" at {', '.join(f'{dim}={size}' for dim, size in sizes.items())}" if sizes else ""
