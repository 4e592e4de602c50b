"""scikit-learn's 1,797 scans of handwritten digits, 8x8 pixels: two thirds to train on, one third held out.

The scans are the test part of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from dlc.errors import CapabilityError
from dlc.harness.accuracy import METRICS
from dlc.recipe import Dataset, Dim, Input, Recipe
from dlc.types import Array, Feeds

if TYPE_CHECKING:
    import torch

SEED = 20
CALIBRATION = 192
BATCH = 64
SOURCE = "scikit-learn load_digits: Optical Recognition of Handwritten Digits, UCI, CC BY 4.0"


@dataclass(frozen=True, slots=True)
class Digits:
    """Images [n, 1, 8, 8] with values in [0, 1], and their labels [n]."""

    images: Array
    labels: Array


@dataclass(frozen=True, slots=True)
class Split:
    """1,198 scans to train on and 599 held out, both with the same mix of digits."""

    train: Digits
    held_out: Digits


@cache
def load() -> Split:
    """Load and split the scans; the held-out third is every third scan of a seeded shuffle sorted by label."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise CapabilityError("the digit scans come with scikit-learn: pip install scikit-learn") from error
    scans, labels = load_digits(return_X_y=True)
    images = (scans / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    shuffled = np.random.default_rng(SEED).permutation(len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    out = np.zeros(len(labels), dtype=bool)
    out[by_label[::3]] = True
    return Split(Digits(images[~out], labels[~out]), Digits(images[out], labels[out]))


def recipe(name: str, source: Callable[[], torch.nn.Module], expect_fusions: Mapping[str, int]) -> Recipe:
    """Declare a network that reads digits."""
    return Recipe(
        name=name,
        source=source,
        inputs={"image": Input("float32", ("batch", 1, 8, 8), low=0.0, high=1.0)},
        outputs=("scores",),
        dims={"batch": Dim(1, 64, typical=16)},
        calibration=calibration(),
        evaluation=evaluation(),
        metric=METRICS["top1"],
        variants=("fp32", "fp16", "bf16", "int8", "int4"),
        expect_fusions=expect_fusions,
    )


def calibration() -> Dataset:
    """Seeded choice of training scans; none of them is held out."""

    def chosen() -> Iterator[Feeds]:
        images = load().train.images
        order = np.random.default_rng(SEED).permutation(len(images))
        return _batches(images[order[:CALIBRATION]])

    return Dataset("digits, training part", chosen, source=SOURCE)


def evaluation() -> Dataset:
    """All held-out scans."""
    return Dataset(
        "digits, held-out third",
        lambda: _batches(load().held_out.images),
        targets=lambda: load().held_out.labels,
        source=SOURCE,
    )


def _batches(images: Array) -> Iterator[Feeds]:
    for start in range(0, len(images), BATCH):
        yield {"image": images[start : start + BATCH]}
