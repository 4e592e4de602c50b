"""digits-mlp: a small residual perceptron on 8x8 digit scans; Linear, ReLU, LayerNorm, GELU, Add.

image [b, 1, 8, 8] -> 64 -> 128, ReLU -> x + MLP(LayerNorm(x)), GELU inside -> LayerNorm -> scores [b, 10]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlc.models import digits, train
from dlc.recipe import Recipe

if TYPE_CHECKING:
    import torch

NAME = "digits-mlp"


def network() -> torch.nn.Module:
    """Untrained network, in training mode."""
    train.import_torch()
    from torch import Tensor, nn

    class Residual(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x + self.body(x)
            return out

    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), Residual(128), nn.LayerNorm(128), nn.Linear(128, 10)
    )


def module() -> torch.nn.Module:
    """Trained network, in eval mode."""
    return train.restore(network(), train.load(NAME))


def recipe() -> Recipe:
    """What ``dlc compile digits-mlp`` compiles."""
    return digits.recipe(NAME, module, {"layer-norm": 2, "gelu": 1})
