"""Builds mixes of 8 bits and FP32, and measures them: quality on held-out data, latency beside FP32's, file size."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir

from dlc import pipeline
from dlc.artifact import MODEL, write_model
from dlc.costs import Costs
from dlc.errors import ModelError, Unsupported
from dlc.harness.retention import Kept, kept
from dlc.interface import Interface
from dlc.manifest import Estimate
from dlc.passes.base import Pass, clone
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.passes.quantize_static import QuantizeStatic
from dlc.passes.weighted import label, weighted_nodes
from dlc.recipe import Dataset, Recipe
from dlc.runtimes.base import Runner
from dlc.runtimes.opened import opened
from dlc.search import Measured, Mix
from dlc.types import Bytes, Feeds, Outputs


@dataclass(frozen=True, slots=True)
class Workshop:
    """Builds mixes of one model and measures them; ``names``: of its units, the weighted nodes that 8 bits fit.

    ``folds``: passes that were calibrated on either half of ``held``, whose batches were dealt out in turns.
    """

    model: ir.Model
    folds: Sequence[Sequence[Pass]]
    recipe: Recipe
    costs: Costs
    held: Dataset
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", quantized(self.model, self.folds[0]))

    def build(self, chosen: Mix, fold: int = 0) -> ir.Model:
        """Return the model with these units in 8 bits, calibrated on one half."""
        model = clone(self.model)
        pipeline.run(model, leaving(self.folds[fold], [n for n in self.names if n not in chosen]))
        return model

    def keeps(self, changed: Sequence[ir.Model], dataset: Dataset) -> Kept:
        """Run FP32 beside mixes that take batches in turns."""
        rng = np.random.default_rng(self.costs.seed)
        with ExitStack() as stack:
            fp32, *mixed = (stack.enter_context(opened(m, self.costs.config)) for m in (self.model, *changed))
            return kept(
                fp32, InTurns(mixed[0].interface, mixed), dataset, self.recipe.metric, self.recipe.prediction, rng
            )

    def measure(self, chosen: Mix) -> Measured:
        """Measure a mix: what it keeps of the held-out data, its latency and FP32's in turns, its size as a file."""
        start, changed = time.perf_counter(), self.build(chosen)
        cost = self.costs.whole(self.model, changed)
        try:
            share, refuted = self.keeps([self.build(chosen, fold=1), changed], self.held).share, None
        except ModelError as error:
            share, refuted = Estimate(value=0.0, low=0.0, high=0.0), str(error)
        return Measured(
            ms=cost.after_ns / 1e6, ratio=cost.ratio, kept=share, bytes=file_bytes(changed), refuted=refuted,
            seconds=time.perf_counter() - start,
        )  # fmt: skip


@dataclass(slots=True)
class InTurns(Runner):
    """Runs a batch on each of several runners in turns."""

    interface: Interface
    runners: Sequence[Runner]
    turn: int = 0

    def infer(self, feeds: Feeds) -> Outputs:
        """Run the next one."""
        runner, self.turn = self.runners[self.turn % len(self.runners)], self.turn + 1
        return runner.infer(feeds)


def quantized(model: ir.Model, passes: Sequence[Pass]) -> list[str]:
    """Labels of the weighted nodes that the last of these passes quantizes, in graph order."""
    [*_, record] = pipeline.run(clone(model), passes)
    converted = {s.node for s in record.sites if s.applied}
    return [label(n) for n in weighted_nodes(model.graph) if label(n) in converted]


def leaving(passes: Sequence[Pass], excluded: Sequence[str]) -> list[Pass]:
    """Passes that leave these nodes in FP32."""
    *before, last = passes
    if not isinstance(last, (QuantizeStatic, QuantizeDynamic)):
        raise Unsupported(f"{last.name} cannot leave nodes out")
    return [*before, replace(last, exclude=(*last.exclude, *excluded))]


def file_bytes(model: ir.Model) -> Bytes:
    """Bytes of a model as it is shipped, external data included."""
    with TemporaryDirectory(prefix="dlc-") as folder:
        write_model(Path(folder), model)
        return sum(f.stat().st_size for f in Path(folder).glob(f"{MODEL}*"))
