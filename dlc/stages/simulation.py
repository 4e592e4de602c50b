"""Whether a quantized graph's simulation tells what its kernels compute.

A graph in QDQ form computes twice: with ONNX Runtime's optimisations off in float, on values rounded to 8 bits, as a
quantizer's fake quantization does; as it ships, in integer kernels. Judgements are of the kernels; this is the gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import cast

import msgspec
import onnx_ir as ir

from dlc.artifact import MODEL
from dlc.export import Exported
from dlc.harness.agreement import AgreementMeter
from dlc.lookup import load
from dlc.manifest import Simulation
from dlc.passes.base import all_nodes, constant
from dlc.quantized_speed import INTEGER_OPS, is_quantized
from dlc.recipe import Dataset, Precision, Recipe
from dlc.runtimes import RUNTIMES
from dlc.runtimes.session import SessionConfig
from dlc.stages.evidence import Subject, seeded
from dlc.stages.variants import Build
from dlc.types import Feeds

BATCHES = 16


def simulated(
    subjects: Sequence[Subject], builds: Sequence[Build], recipe: Recipe, exported: Exported
) -> dict[str, Simulation | None]:
    """Return the gap of every variant that was built, on calibration data, else on seeded inputs."""
    models, data = {b.precision: b.model for b in builds}, recipe.calibration or seeded(exported)
    classes = recipe.metric is not None and recipe.metric.classes
    return {
        each.name: gap(each, model, data, classes=classes)
        for each in subjects
        if (model := models.get(cast("Precision", each.name))) is not None
    }


def gap(subject: Subject, model: ir.Model, data: Dataset, *, classes: bool) -> Simulation | None:
    """Run both on some batches; None if nothing in the graph is quantized. The simulation is the reference."""
    if not is_quantized(model):
        return None
    integer = sum(node.op_type in INTEGER_OPS for node in all_nodes(model.graph))
    if not _is_simulated(model):
        return Simulation(
            note=f"the graph has no simulated form: {integer} of its nodes are integer kernels themselves"
        )
    feeds = list(islice(data.batches(), BATCHES))
    meter = _agreement(subject, feeds, classes=classes)
    note = f"{integer} nodes are integer kernels in both" if integer else ""
    return Simulation(agreement=meter.result(), note=note)


def _is_simulated(model: ir.Model) -> bool:
    """Whether an activation is quantized and dequantized by nodes that a runtime may fuse."""
    return any(
        node.op_type == "DequantizeLinear" and constant(node.inputs[0]) is None for node in all_nodes(model.graph)
    )


def _agreement(subject: Subject, feeds: Sequence[Feeds], *, classes: bool) -> AgreementMeter:
    """One session at a time; the outputs of the simulation are kept."""
    plain: SessionConfig = msgspec.structs.replace(subject.config, graph_optimization="none")
    meter = AgreementMeter(classes=classes)
    with load(RUNTIMES[plain.provider])(subject.folder / MODEL, plain) as runner:
        simulated = [runner.run(each) for each in feeds]
    with subject.runner() as runner:
        for each, expected in zip(feeds, simulated, strict=True):
            batch = next((a.shape[0] for a in each.values() if a.ndim), 1)
            meter.add(runner.run(each), expected, batch=batch)
    return meter
