"""Small modules and recipes that tests export."""

from __future__ import annotations

import torch
from torch import nn

from dlc.recipe import Dim, Input, Recipe


class TwoByTwo(nn.Module):
    """Two inputs, two outputs; the second is named like a value inside the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = self.table(ids)
        return {"scaled": rows * scale[:, None, None], "embedding": rows.mean(1)}


class Remembers(nn.Module):
    """Divides by the batch size of its last eager call: traced as a constant, without a word from torch."""

    last = 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_exporting():
            self.last = x.shape[0]
        return x / self.last


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x
        return -x


class FixesBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.ones(int(x.shape[0]), 1)


class FirstFour(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:4] + 1


class Pairs(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, 2, 4)


class Sum(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


class Singular(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = torch.linalg.svd(x)[1]
        return values


class WrongWidth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(x)
        return out


class Echo(nn.Module):
    """Returns its input, and one tensor twice."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x + 1
        return x, y, y


def recipe(module: nn.Module, *, outputs: tuple[str, ...] = (), dims: dict[str, Dim] | None = None) -> Recipe:
    """A recipe for a module of one input x: [batch, 4]."""
    return Recipe(
        name="tiny", source=lambda: module, inputs={"x": Input("float32", ("batch", 4))}, outputs=outputs,
        dims={"batch": Dim(1, 8)} if dims is None else dims,
    )  # fmt: skip


def two_by_two() -> Recipe:
    return Recipe(
        name="two", source=TwoByTwo,
        inputs={"ids": Input("int64", ("batch", "length"), 0, 10), "scale": Input("float32", ("batch",))},
        dims={"batch": Dim(1, 4), "length": Dim(1, 9)},
    )  # fmt: skip
