"""Attention in the forms that PyTorch users write; x: [n, 5, 24], four heads of 6."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

LENGTH, WIDTH, HEADS = 5, 24, 4
SIZE = WIDTH // HEADS
PADDING = 1.5
"""Positions whose first feature is at least this are padding."""
attend = torch.nn.functional.scaled_dot_product_attention
CAUSAL = torch.full((LENGTH, LENGTH), -math.inf).triu(1)


class Layered(nn.Module):
    """``nn.MultiheadAttention``: packed or separate weights, the sequence first inside, bmm if weights are wanted."""

    def __init__(
        self, *, weights: bool = False, mask: Tensor | None = None, padded: bool = False, memory: int = 0
    ) -> None:
        super().__init__()
        wide = {"kdim": memory, "vdim": memory} if memory else {}
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **wide)
        self.widen = nn.Linear(WIDTH, memory) if memory else nn.Identity()
        self.weights, self.mask, self.padded, self.cross = weights, mask, padded, bool(memory)

    def forward(self, x: Tensor) -> Tensor:
        padding = x[..., 0] >= PADDING if self.padded else None
        query, keys = (x[:, :3] if self.cross else x), self.widen(x)
        y: Tensor = self.inner(
            query, keys, keys, need_weights=self.weights, attn_mask=self.mask, key_padding_mask=padding
        )[0]
        return y


class Functional(nn.Module):
    """``scaled_dot_product_attention`` of a packed projection; values may have another size than keys."""

    def __init__(self, mask: Callable[[Tensor], Tensor | None], *, value: int = SIZE, causal: bool = False) -> None:
        super().__init__()
        self.mask, self.value, self.causal = mask, value, causal
        self.project, self.out = nn.Linear(WIDTH, 2 * WIDTH + HEADS * value), nn.Linear(HEADS * value, WIDTH)
        self.bias = nn.Buffer(torch.randn(HEADS, LENGTH, LENGTH))

    def forward(self, x: Tensor) -> Tensor:
        packed = self.project(x).split([WIDTH, WIDTH, HEADS * self.value], dim=-1)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in packed)
        mask = self.bias if self.value != SIZE else self.mask(x)
        y = attend(q, k, v, attn_mask=mask, is_causal=self.causal)
        merged: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return merged


class Written(nn.Module):
    """nanoGPT and Hugging Face's GPT-2: a mask chooses between scores and a lowest number."""

    def __init__(self, lowest: float) -> None:
        super().__init__()
        self.project, self.lowest = nn.Linear(WIDTH, 3 * WIDTH), lowest
        self.seen = nn.Buffer(torch.ones(LENGTH, LENGTH).tril().view(1, 1, LENGTH, LENGTH))

    def forward(self, x: Tensor) -> Tensor:
        n, s, _ = x.shape
        q, k, v = (part.view(n, s, HEADS, SIZE).transpose(1, 2) for part in self.project(x).split(WIDTH, dim=2))
        scores = q @ k.transpose(-2, -1) / math.sqrt(SIZE)
        p = scores.masked_fill(self.seen[:, :, :s, :s] == 0, self.lowest).softmax(dim=-1)
        y: Tensor = (p @ v).transpose(1, 2).contiguous().view(n, s, WIDTH)
        return y


class Vision(nn.Module):
    """timm's vision transformers: queries, keys and values on an axis of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        n, s, _ = x.shape
        q, k, v = self.project(x).reshape(n, s, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4).unbind(0)
        p = (q * SIZE**-0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        y: Tensor = self.out((p @ v).transpose(1, 2).reshape(n, s, WIDTH))
        return y


class Relative(nn.Module):
    """BERT with T5's bias by distance, [1, h, s, s], and separate projections."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.bias = nn.Embedding(2 * LENGTH, HEADS)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (HEADS, -1)).permute(0, 2, 1, 3) for part in self.parts)
        at = torch.arange(LENGTH)
        bias = self.bias(at[:, None] - at + LENGTH).permute(2, 0, 1)[None]
        p = (q @ k.transpose(-1, -2) / math.sqrt(SIZE) + bias).softmax(dim=-1)
        y: Tensor = (p @ v).permute(0, 2, 1, 3).flatten(2)
        return y


MODULES: dict[str, Callable[[], nn.Module]] = {
    "multihead": Layered,
    "multihead with weights": lambda: Layered(weights=True),
    "multihead causal": lambda: Layered(mask=CAUSAL),
    "multihead padded": lambda: Layered(padded=True),
    "multihead with weights, padded": lambda: Layered(weights=True, padded=True),
    "multihead cross": lambda: Layered(memory=30),
    "multihead with weights, cross": lambda: Layered(weights=True, memory=30),
    "encoder layer": lambda: nn.Sequential(nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True)),
    "functional causal": lambda: Functional(lambda _: None, causal=True),
    "functional padded": lambda: Functional(lambda x: (x[..., 0] < PADDING)[:, None, None]),
    "functional bias, wide values": lambda: Functional(lambda _: None, value=9),
    "nanoGPT": lambda: Written(-math.inf),
    "GPT-2": lambda: Written(torch.finfo(torch.float32).min),
    "vision": Vision,
    "relative": Relative,
}
