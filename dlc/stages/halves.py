"""FP16 and BF16 that neither overflow nor lose everything: what values hold is measured before they are cast."""

from __future__ import annotations

from itertools import islice

import numpy as np
import onnx_ir as ir

from dlc.feeds import seeded_feeds
from dlc.interface import Interface
from dlc.magnitudes import magnitudes
from dlc.passes.cast_fp16 import RANGE_CRITICAL, CastFp16, Magnitude
from dlc.passes.emulate_bf16 import EmulateBf16
from dlc.recipe import Dim, Recipe
from dlc.stages.excluding import excluded
from dlc.types import Feeds

BATCHES = 8
"""Batches that are looked at: an overflow that matters shows early, and the margin covers what comes later."""


def fp16(model: ir.Model, recipe: Recipe) -> CastFp16:
    """Cast what FP16 can hold, as measured."""
    blocked = (*RANGE_CRITICAL, *excluded(model, recipe.fp16.exclude))
    return CastFp16(magnitudes=measured(model, recipe), blocked=blocked)


def bf16(model: ir.Model, recipe: Recipe) -> EmulateBf16:
    """Round what BF16 can hold, as measured."""
    largest = {name: seen.largest for name, seen in measured(model, recipe).items()}
    return EmulateBf16(largest=largest, exclude=excluded(model, recipe.bf16.exclude))


def measured(model: ir.Model, recipe: Recipe) -> dict[str, Magnitude]:
    """Measure on the first batches of calibration data, else on seeded inputs."""
    return magnitudes(model, looked_at(model, recipe))


def looked_at(model: ir.Model, recipe: Recipe) -> list[Feeds]:
    """Return the first batches of calibration data, else seeded inputs at typical sizes."""
    if recipe.calibration is not None and (found := list(islice(recipe.calibration.batches(), BATCHES))):
        return found
    interface, rng = Interface.of(model), np.random.default_rng(0)
    named = {d for t in interface.inputs for d in t.shape or () if isinstance(d, str)}
    sizes = {name: recipe.dims.get(name, Dim()).typical for name in named}
    return [seeded_feeds(interface, recipe.inputs, sizes, rng) for _ in range(BATCHES)]
