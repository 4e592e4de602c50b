"""Decoder layers as each of torch's two exporters writes them, canonicalised: x [n, s, C], both dynamic."""

from __future__ import annotations

import io
import warnings
from typing import Any, Literal

import onnx
import onnx_ir as ir
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu

from dlc.export import export
from dlc.passes.canonicalize import Canonicalize
from dlc.recipe import Dim, Input, Recipe

HEADS, GROUPS, SIZE = 6, 2, 8
WIDTH = HEADS * SIZE

Form = Literal["eager", "sdpa", "gqa"]


class Norm(nn.Module):
    """RMSNorm, which the old exporter cannot write unless it is written out."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Decoder(nn.Module):
    """One layer of Llama: fewer heads of keys than of queries, a causal mask, angles computed from positions.

    ``form``: attention written out, PyTorch's, or PyTorch's with heads that it repeats itself. ``pairs``: neighbours
    are turned, not halves. ``groups``: heads of keys and values.
    """

    def __init__(self, form: Form = "eager", *, pairs: bool = False, groups: int = GROUPS) -> None:
        super().__init__()
        self.form, self.pairs, self.groups = form, pairs, groups
        self.norms = nn.ModuleList([Norm(), Norm()])
        self.q, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(WIDTH, groups * SIZE, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(WIDTH, 2 * WIDTH, bias=False) for _ in range(2))
        self.down = nn.Linear(2 * WIDTH, WIDTH, bias=False)
        self.frequencies: torch.Tensor
        self.register_buffer("frequencies", 10000.0 ** (-torch.arange(0, SIZE, 2) / SIZE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norms[0](x))
        y = self.norms[1](x)
        return x + torch.as_tensor(self.down(silu(self.gate(y)) * self.up(y)))

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        n, s, _ = x.shape
        q, k, v = (w(x).view(n, s, -1, SIZE).transpose(1, 2) for w in (self.q, self.k, self.v))
        angles = torch.arange(s)[None, :, None].to(x.dtype) * self.frequencies  # [1, s, D/2]
        angles = torch.repeat_interleave(angles, 2, dim=2) if self.pairs else torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        q, k = (t * cos + self.turned(t) * sin for t in (q, k))
        seen = torch.arange(s)[None, :] <= torch.arange(s)[:, None]
        if self.form == "gqa":
            heads = scaled_dot_product_attention(q, k, v, attn_mask=seen[None, None], enable_gqa=True)
        else:
            k, v = (self.repeated(t) for t in (k, v))
            mask = torch.where(seen, 0.0, torch.finfo(x.dtype).min)[None, None]
            if self.form == "sdpa":
                heads = scaled_dot_product_attention(q, k, v, attn_mask=mask)
            else:
                heads = torch.softmax(q @ k.transpose(2, 3) * SIZE**-0.5 + mask, dim=-1) @ v
        return torch.as_tensor(self.o(heads.transpose(1, 2).reshape(n, s, WIDTH)))

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        if self.pairs:
            return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
        return torch.cat((-x[..., SIZE // 2 :], x[..., : SIZE // 2]), dim=-1)

    def repeated(self, x: torch.Tensor) -> torch.Tensor:
        n, g, s, d = x.shape
        if self.groups == HEADS:
            return x
        return x[:, :, None].expand(n, g, HEADS // self.groups, s, d).reshape(n, HEADS, s, d)


def dynamo(module: nn.Module, width: int = WIDTH) -> ir.Model:
    """As dlc exports a module."""
    recipe = Recipe(
        name="decoder", source=lambda: module, inputs={"x": Input("float32", ("n", "s", width))}, outputs=("y",),
        dims={"n": Dim(1, 8), "s": Dim(2, 64)},
    )  # fmt: skip
    return export(recipe, opset=20, ir_version=10).model


def torchscript(module: nn.Module, width: int = WIDTH, opset: int = 20) -> ir.Model:
    """As the old exporter writes a module."""
    file: Any = io.BytesIO()  # what torch's stubs do not know it takes
    axes = {0: "n", 1: "s"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.randn(2, 5, width),), file, dynamo=False, opset_version=opset, input_names=["x"],
            output_names=["y"], dynamic_axes={"x": axes, "y": axes}, do_constant_folding=False,
        )  # fmt: skip
    model = ir.from_proto(onnx.load_from_string(file.getvalue()))
    Canonicalize()(model)
    return model


EXPORTERS = {"dynamo": dynamo, "torchscript": torchscript}
