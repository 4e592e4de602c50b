"""Static int8: from calibration data to the pass, by the method that the recipe names or the best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from dlc.calibrate import Calibrated
from dlc.calibration_cache import remembered
from dlc.data import DataSummary
from dlc.integer_format import integer_format
from dlc.passes.base import Pass
from dlc.passes.equalize_layers import EqualizeLayers
from dlc.passes.quantize_static import QuantizeStatic, channels_to_average, tensors_to_calibrate
from dlc.progress import Progress, track
from dlc.recipe import Dataset, Recipe
from dlc.report.numbers import shorten
from dlc.stages.excluding import excluded
from dlc.stages.recovering import applied, closest, rounded
from dlc.target import Target
from dlc.types import Feeds

FEW = 32
"""Examples below which a range hangs on too few of them to be trusted without a look at the task."""
NAMED = 3


def static_int8(model: ir.Model, recipe: Recipe, data: Dataset, target: Target) -> QuantizeStatic:
    """Calibrate, and return the form that comes closest to the model: which method, biases corrected or not."""
    exclude, form, threads = excluded(model, recipe.int8.exclude), integer_format(target), target.threads
    found = remembered(
        model, data.batches, tensors_to_calibrate(model, exclude), channels_to_average(model, exclude),
        options=recipe.calibrate, threads=threads,
    )  # fmt: skip
    means = {name: np.array(mean) for name, mean in found.means.items()}
    plain = [
        QuantizeStatic(
            ranges=ranges,
            method=method,
            reduce_range=form.reduce_range,
            activation_dtype=form.activations,
            symmetric=form.symmetric,
            absorb_clips=form.absorb_clips,
            exclude=exclude,
            notes=remarks(found),
        )
        for method, ranges in found.ranges.items()
    ]
    cut = plain[0] if len(plain) == 1 else closest(model, plain, data, threads=threads, provider=target.provider)
    if "correct-bias" not in recipe.int8.recover:
        return cut
    corrected = replace(cut, correct_bias=True, means=means)
    return closest(model, [cut, corrected], data, threads=threads, provider=target.provider)


def recovered(model: ir.Model, recipe: Recipe, data: Dataset, target: Target) -> list[Pass]:
    """Return the passes of static int8: equalisation, then learned rounding, as far as they may be tried and help."""
    recover = recipe.int8.recover
    forms: list[list[Pass]] = [[static_int8(model, recipe, data, target)]]
    equalize = EqualizeLayers()
    if "equalize-layers" in recover and any(why is None for _, why in equalize.survey(model)):
        even = applied(model, [equalize])
        forms.append([equalize, static_int8(even, recipe, data, target)])
    *before, plain = closest(model, forms, data, threads=target.threads, provider=target.provider)
    assert isinstance(plain, QuantizeStatic)
    if "learn-rounding" not in recover:
        return [*before, plain]
    even = applied(model, before)
    max_ram, provider = recipe.calibrate.max_ram, target.provider
    return [*before, rounded(even, data, plain, threads=target.threads, max_ram=max_ram, provider=provider)]


def watched(recipe: Recipe, batches: int, progress: Progress) -> Recipe:
    """Return the same recipe; each run over its calibration data is a stage of its own."""
    if (data := recipe.calibration) is None:
        return recipe

    def read() -> Iterator[Feeds]:
        progress.stage(f"run {data.name}", batches)
        yield from track(progress, data.batches())
        progress.stage("build")

    return replace(recipe, calibration=data.part(read, targets=data.targets))


def remarks(found: Calibrated) -> tuple[str, ...]:
    """Say what the user should know of a calibration."""
    said: list[str] = []
    if found.runs > 1:
        said.append(f"calibrated in {found.runs} runs over the data, to stay within max_ram")
    if found.constant:
        shown = ", ".join(f"{shorten(n)} = {v:g}" for n, v in list(found.constant.items())[:NAMED])
        more = f" and {len(found.constant) - NAMED} more" if len(found.constant) > NAMED else ""
        said.append(
            f"never changes on the calibration data: {shown}{more}; other values will be clipped to that: "
            "is the data what the model will see?"
        )
    return tuple(said)


def too_few(found: DataSummary) -> str | None:
    """Warn of a calibration set that is too small."""
    if found.examples >= FEW:
        return None
    return (
        f"only {found.examples} calibration examples: ranges hang on each of them; "
        f"give {FEW} or more, drawn as the model will see them"
    )
