"""fracast: the next 48 values of a series from its last 2048; one causal depthwise block over ten dilations.

context [b, 2048] -> scaled to [0, 1] -> encoded [b, 2048, 64] -> quantiles [b, 48, 9], of 0.1 to 0.9

Weights come from the PyPI package fracast (Apache-2.0). Periods are found by a periodogram inside the graph. Judged on
ETTh1: the median against what came, hourly, seven series, scaled by mean and deviation of the training year.
"""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlc.errors import CapabilityError, DataError
from dlc.models.datasets import VARIABLE, data_root
from dlc.recipe import Dataset, Dim, Input, Recipe
from dlc.types import Array, Feeds, Outputs

if TYPE_CHECKING:
    import torch

NAME = "fracast"
INSTALL = "pip install 'dlc[zoo]'"
CONTEXT, HORIZON, MEDIAN = 2048, 48, 4
TRAIN, TEST, END = 12 * 30 * 24, 16 * 30 * 24, 20 * 30 * 24
"""Hours at which the customary parts of ETTh1 end or begin: 12 months to train, 4 to validate, 4 to test."""
STEP = 97
"""Hours between two windows that are judged: prime to the day and the week."""
CALIBRATION_STEP = 499
LEAST_SPAN = 1e-5
WITHOUT_DATA = f"no ${VARIABLE}/ett: judged by agreement with FP32 on seeded series, and not in int8"


def recipe() -> Recipe:
    """What ``dlc compile fracast`` compiles."""
    from dlc.harness.accuracy import METRICS

    if importlib.util.find_spec(NAME) is None:
        raise CapabilityError(f"{NAME} is not installed: {INSTALL}")
    root = data_root()
    file = root / "ett" / "ETTh1.csv" if root is not None and (root / "ett").is_dir() else None
    return Recipe(
        name=NAME,
        source=module,
        inputs={"context": Input("float32", ("batch", CONTEXT))},
        outputs=("quantiles",),
        dims={"batch": Dim(1, 64, typical=7)},
        calibration=None
        if file is None
        else windows(file, "validation", range(TRAIN, TEST - HORIZON, CALIBRATION_STEP)),
        evaluation=None if file is None else windows(file, "test", range(TEST, END - HORIZON + 1, STEP)),
        metric=METRICS["mae"],
        prediction=median,
        variants=("fp32", "int8"),
        expect_fusions={"silu": 17},
        notes=(WITHOUT_DATA,) if file is None else (),
    )


def module() -> torch.nn.Module:
    """Trained encoder and head with the scaling before and after them, in eval mode; every value counts as observed."""
    try:
        from fracast.inference import FracastModel
    except ImportError as error:
        raise CapabilityError(f"{NAME}: {error.name} is not installed: {INSTALL}") from error
    import torch

    class Forecaster(torch.nn.Module):
        def __init__(self, core: torch.nn.Module, head: Any) -> None:
            super().__init__()
            self.core, self.head = core, head

        def forward(self, context: torch.Tensor) -> torch.Tensor:
            low = context.amin(dim=1, keepdim=True)
            span = (context.amax(dim=1, keepdim=True) - low).clamp(min=LEAST_SPAN)
            scaled = (context - low) / span
            seen = torch.ones_like(scaled, dtype=torch.bool)
            hidden = self.core(scaled[:, None], seen[:, None], torch.ones_like(scaled)[:, None])
            quantiles: torch.Tensor = self.head.forward_horizon(
                hidden, last_obs=scaled[:, -1:], ctx=scaled, ctx_mask=seen
            )
            return quantiles * span[..., None] + low[..., None]

    trained = FracastModel.from_pretrained(weights="fp32")
    return Forecaster(trained.core, trained.head).eval()


def median(_: Feeds, outputs: Outputs) -> Array:
    """Median forecast, [b, 48]."""
    return outputs["quantiles"][:, :, MEDIAN]


def windows(file: Path, part: str, starts: Sequence[int]) -> Dataset:
    """One batch for each start, the hours before it of all series; the targets are the hours after it."""

    def batches() -> Iterator[Feeds]:
        series = read(file)
        return ({"context": np.ascontiguousarray(series[s - CONTEXT : s].T)} for s in starts)

    def targets() -> Array:
        series = read(file)
        return np.concatenate([series[s : s + HORIZON].T for s in starts])

    return Dataset(f"ETTh1, {part}", batches, targets=targets, source="ETDataset, ETTh1, CC BY-ND 4.0")


def read(file: Path) -> Array:
    """Read the series and scale each by its mean and deviation over the training year, [hours, 7]."""
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.reader(lines))[1:]
        series = np.array([[float(cell) for cell in row[1:]] for row in rows])
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: {error}; it must hold a date and numbers in each line") from error
    if len(series) < END:
        raise DataError(f"{file} holds {len(series)} hours, fewer than the {END} of the customary parts")
    year = series[:TRAIN]
    scaled: Array = ((series - year.mean(axis=0)) / year.std(axis=0)).astype(np.float32)
    return scaled
