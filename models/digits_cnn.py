"""digits-cnn: a small residual network on 8x8 digit scans; Conv, BatchNorm, ReLU, Add, pooling, Gemm.

image [b, 1, 8, 8] -> 32 channels -> residual block -> 2x2 max pool -> 64 channels -> mean -> scores [b, 10]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlc.models import digits, train
from dlc.recipe import Recipe

if TYPE_CHECKING:
    import torch

NAME = "digits-cnn"


def network() -> torch.nn.Module:
    """Untrained network, in training mode."""
    train.import_torch()
    from torch import Tensor, nn

    def conv(channels_in: int, channels: int) -> list[nn.Module]:
        return [nn.Conv2d(channels_in, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)]

    class Residual(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.body = nn.Sequential(*conv(channels, channels), nn.ReLU(), *conv(channels, channels))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.relu(x + self.body(x))

    return nn.Sequential(
        *conv(1, 32), nn.ReLU(), Residual(32), nn.MaxPool2d(2), *conv(32, 64), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def module() -> torch.nn.Module:
    """Trained network, in eval mode."""
    return train.restore(network(), train.load(NAME))


def recipe() -> Recipe:
    """What ``dlc compile digits-cnn`` compiles."""
    return digits.recipe(NAME, module, {"batch-norm": 4})
