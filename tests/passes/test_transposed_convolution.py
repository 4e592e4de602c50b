"""What follows a ConvTranspose folds into it: grouped, dilated and strided, of any rank, by both exporters."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlc.passes.base import Pass
from dlc.passes.fold_batch_norm import FoldBatchNorm
from dlc.passes.fold_scale_bias import FoldScaleBias
from dlc.tolerance import distance, reassociation
from tests.passes.exported import EXPORTERS
from tests.passes.texts import compute, sites

CONVS = [torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d]
NORMS = [torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 3},
    "without bias": {"kernel_size": 3, "bias": False},
    "grouped": {"kernel_size": 3, "groups": 2},
    "depthwise": {"kernel_size": 3, "groups": 4},
    "dilated": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "grouped, dilated, strided": {
        "kernel_size": 3, "groups": 2, "dilation": 2, "stride": 2, "padding": 1, "output_padding": 1,
    },
}  # fmt: skip


class Normed(torch.nn.Module):
    def __init__(self, rank: int, **options: Any) -> None:
        super().__init__()
        self.conv, self.norm = CONVS[rank - 1](4, 8, **options), NORMS[rank - 1](8)
        torch.nn.init.uniform_(self.norm.weight, 0.5, 2.0)
        torch.nn.init.uniform_(self.norm.bias)
        self.norm.running_mean = torch.rand(8) - 0.5
        self.norm.running_var = torch.rand(8) + 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.norm(self.conv(x))
        return out


class Scaled(torch.nn.Module):
    """A scale and a shift a channel; without a bias in the convolution, one comes in."""

    def __init__(self, rank: int, **options: Any) -> None:
        super().__init__()
        self.conv = CONVS[rank - 1](4, 8, **options)
        shape = (8, *[1] * rank)
        self.scale, self.shift = torch.nn.Parameter(torch.rand(shape) + 0.5), torch.nn.Parameter(torch.rand(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(x) * self.scale - self.shift
        return out


CASES = [(2, kind) for kind in KINDS] + [(rank, "grouped, dilated, strided") for rank in (1, 3)]


@pytest.mark.parametrize(("rank", "kind"), CASES)
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("make", "fold"), [(Normed, FoldBatchNorm()), (Scaled, FoldScaleBias())])
def test_folds(exporter: str, rank: int, kind: str, make: type, fold: Pass) -> None:
    torch.manual_seed(0)
    example = torch.randn(2, 4, *[5] * rank)
    model = EXPORTERS[exporter](make(rank, **KINDS[kind]).eval(), example)
    before = compute(model, {"x": example.numpy()})
    assert [s.reason for s in sites(model, fold)] == [None]
    assert [n.op_type for n in model.graph] == ["ConvTranspose"]
    # (W x - mean) * s cancels: with |mean| < 1, s < 3 and results that reach 1 in these draws, the terms are at most
    # 8 times the largest output.
    assert distance(compute(model, {"x": example.numpy()}), before)[0] <= 8 * reassociation(model)
