"""What an artifact keeps of its calibration data, so that new data can be held against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from dlc import drift
from dlc.artifact import MODEL
from dlc.errors import UserError
from dlc.histogram import Histogram
from dlc.interface import Interface
from dlc.observe import observe
from dlc.passes.weighted import weighted_nodes
from dlc.recipe import Recipe
from dlc.stages.evidence import Subject
from dlc.stages.record import CheckedData

NUMBERS = "fiub"
"""Kinds of numpy's dtypes that are numbers."""
CHOSEN = 8
"""Activations that are looked at unless more are named."""


def add_statistics(folder: Path, subjects: Sequence[Subject], recipe: Recipe, data: CheckedData) -> CheckedData:
    """Write ``statistics.json``, where there is calibration data; return the data with what could not be kept.

    Activations are those of the fp32 variant, whose names are the source's; without it the outputs of the first.
    """
    if recipe.calibration is None or not subjects:
        return data
    subject = next((s for s in subjects if s.name == "fp32"), subjects[0])
    model = ir.load(subject.folder / MODEL)
    named = _numbers(model)
    lost = [name for name in recipe.drift.activations if name not in named]
    found = [name for name in recipe.drift.activations if name in named]
    activations = [*found, *(chosen(model) if subject.name == "fp32" else outputs(model))]
    inputs = [t.name for t in Interface.of(model).inputs if np.dtype(t.dtype).kind in NUMBERS]
    warnings = [f"drift of {name!r} cannot be seen: the variant {subject.name} has no such value" for name in lost]
    try:
        seen = observe(
            model, recipe.calibration.batches, dict.fromkeys((*inputs, *activations), _histogram),
            threads=subject.config.intra_op_threads, max_ram=recipe.calibrate.max_ram,
        )  # fmt: skip
    except UserError as error:
        return replace(data, warnings=(*data.warnings, f"no {drift.STATISTICS}, drift cannot be seen: {error}"))
    ends = outputs(model)
    spreads = {
        name: drift.spread(each, "input" if name in inputs else "output" if name in ends else "activation")
        for name, [each] in seen.of.items()
        if each.average is not None
    }
    drift.write(folder, drift.Statistics(
        model=recipe.name, data=recipe.calibration.name, examples=data.examples("calibration"), variant=subject.name,
        psi=recipe.drift.psi, ks=recipe.drift.ks, values=spreads,
    ))  # fmt: skip
    return replace(data, warnings=(*data.warnings, *warnings))


def chosen(model: ir.Model) -> list[str]:
    """Choose what nodes with weights read, evenly over the depth, and what the model puts out."""
    named = _numbers(model)
    read = dict.fromkeys(
        str(v.name) for node in weighted_nodes(model.graph) for v in node.inputs if v is not None and v.name in named
    )
    step = max(1, -(-len(read) // CHOSEN))
    return list(dict.fromkeys((*list(read)[::step], *outputs(model))))


def outputs(model: ir.Model) -> list[str]:
    """Return the outputs that a node computes."""
    named = _numbers(model)
    return [str(v.name) for v in model.graph.outputs if v.name in named]


def _numbers(model: ir.Model) -> set[str]:
    """Values of the main graph that nodes compute, and that are numbers."""
    values = (v for node in model.graph for v in node.outputs)
    return {str(v.name) for v in values if v.dtype is not None and v.dtype.numpy().kind in NUMBERS}


def _histogram() -> list[Histogram]:
    return [Histogram()]
