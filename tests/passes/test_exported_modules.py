"""Small modules as both of torch's exporters write them: each rewrite finds its place there, and the numbers stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from dlc.export import export
from dlc.passes.base import clone
from dlc.passes.convolve_linear import ConvolveLinear
from dlc.passes.fold_batch_norm import FoldBatchNorm
from dlc.passes.fold_scale_bias import FoldScaleBias
from dlc.passes.fuse_gelu import FuseGelu
from dlc.passes.fuse_layer_norm import FuseLayerNorm
from dlc.passes.merge_terms import MergeTerms
from dlc.passes.rewrite import Rewrite
from dlc.passes.split_residual import SplitResidual
from dlc.passes.unroll_grid import UnrollGrid
from dlc.recipe import Dim, Input, Recipe
from dlc.tolerance import distance, reassociation
from tests.passes.exported import EXPORTERS, torchscript
from tests.passes.texts import compute, sites


class Block(nn.Module):
    """Half of a transformer's layer: learned positions, norm and GELU written out, a residual that is normed."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Parameter(torch.randn(16)), nn.Parameter(torch.randn(6, 16))
        self.gamma, self.norm = nn.Parameter(torch.rand(16)), nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.token + self.position
        away = x - x.mean(-1, keepdim=True)
        x = away / torch.sqrt((away * away).mean(-1, keepdim=True) + 1e-5) * self.gamma
        h = self.up(x)
        x = x + self.down(0.5 * h * (1.0 + torch.erf(h / 2.0**0.5)))
        return torch.as_tensor(self.norm(x))


class Classifier(nn.Module):
    """A convolution, its normalisation and a scale for each channel; global pooling and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.pool = nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1)
        self.norm.running_mean, self.norm.running_var = torch.randn(8), torch.rand(8) + 0.5
        self.scale, self.linear = nn.Parameter(torch.rand(8, 1, 1) + 0.5), nn.Linear(8, 5)
        self.last = nn.Conv2d(2, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.norm(self.conv(x))) + torch.relu(self.last(x) * self.scale)
        return torch.as_tensor(self.linear(self.pool(h).flatten(1)))


@dataclass(frozen=True)
class Case:
    """A module, an example, and a rewrite that is applied at one place."""

    module: Callable[[], nn.Module]
    example: tuple[int, ...]
    rewrite: Rewrite


CASES = {
    each.rewrite.name: each for each in (
        Case(Block, (2, 6, 16), FuseGelu()), Case(Block, (2, 6, 16), FuseLayerNorm()),
        Case(Block, (2, 6, 16), MergeTerms()), Case(Block, (2, 6, 16), SplitResidual()),
        Case(Classifier, (2, 2, 6, 6), FoldBatchNorm()), Case(Classifier, (2, 2, 6, 6), FoldScaleBias()),
        Case(Classifier, (2, 2, 6, 6), ConvolveLinear()),
    )
}  # fmt: skip


@cache
def exported(module: Callable[[], nn.Module], example: tuple[int, ...], exporter: str) -> ir.Model:
    """Export once for all rewrites; the last opset that the old exporter knows has LayerNormalization and Gelu."""
    torch.manual_seed(0)
    made, x = module().eval(), torch.randn(example)
    return torchscript(made, x, opset=20) if exporter == "torchscript" else EXPORTERS[exporter](made, x)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", CASES)
def test_a_rewrite_fits_in_what_is_exported(name: str, exporter: str) -> None:
    case = CASES[name]
    model = clone(exported(case.module, case.example, exporter))
    x = {"x": torch.randn(case.example, generator=torch.Generator().manual_seed(1)).numpy()}
    before, bound = compute(model, x), reassociation(model)
    assert sum(s.applied for s in sites(model, case.rewrite)) == 1
    assert distance(compute(model, x), before)[0] <= max(bound, reassociation(model))


class Padding(nn.Module):
    """A mask looked up at every position of batch and keys, as transformers does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch = torch.arange(x.shape[0])[:, None, None, None]
        key = torch.arange(x.shape[1])[None, None, None, :]
        return x[batch, key]


def test_a_grid_is_unrolled_in_what_dynamo_writes() -> None:
    recipe = Recipe(
        name="padding", source=lambda: Padding().eval(), inputs={"x": Input("int64", ("n", "s"))},
        outputs=("y",), dims={"n": Dim(1, 8, 2), "s": Dim(1, 64, 6)},
    )  # fmt: skip
    model = export(recipe, opset=20, ir_version=10).model
    x = {"x": np.arange(12).reshape(2, 6)}
    assert [s.reason for s in sites(model, UnrollGrid())] == [None]
    np.testing.assert_array_equal(compute(model, x)["y"], x["x"][:, None, None, :])
