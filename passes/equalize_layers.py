"""Cross-layer equalisation: weights move between two convolutions until both are about as large, channel by channel.

    W2 f(W1 x + b1)  =  (W2 s) f((W1 x + b1) / s)        f(a x) = a f(x) for a > 0: Relu, LeakyRelu, or nothing

    s_i = sqrt(max|W1_i| / max|W2_:i|), rounded to a power of two: no number is rounded, so every output stays

M. Nagel et al., 2019, "Data-free quantization through weight equalization and bias correction". One scale then fits all
channels of the activation between better. i counts the channels in between; a depthwise convolution is both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from dlc.passes.base import only_user, scalar
from dlc.passes.channels import SCALED, Weighted, change, fits, weighted
from dlc.passes.edit import Edit
from dlc.passes.fold_input_scale import by_input, restored
from dlc.passes.rewrite import Rewrite
from dlc.types import Floats


@dataclass(frozen=True)
class EqualizeLayers(Rewrite):
    """Equalise a Conv with the Conv that alone reads it, through nothing, Relu, LeakyRelu or a Clip at zero alone.

    Not applied if an activation is bounded above (ReLU6), which is not homogeneous, if anything in between has another
    reader or is a graph output, if a weight or bias is not constant or is shared, if the scaled weights leave the range
    of their type, or if all channels are equal already.
    """

    name: ClassVar[str] = "equalize-layers"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return the convolutions."""
        return (n for n in graph if n.op_type == "Conv" and n.domain == "")

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Equalise one convolution with the next."""
        if isinstance(after := _next(node), str):
            return after
        first, second = weighted(node), weighted(after)
        if isinstance(first, str) or isinstance(second, str):
            return first if isinstance(first, str) else str(second)
        s = _factors(first, second)
        if (s == 1).all():
            return "all channels are equal already"
        inputs = by_input(second)  # [g, M/g, C/g, k]
        theirs = restored(second, inputs * s.reshape(len(inputs), 1, -1, 1))
        mine = SCALED["Conv"](node, first.weight.astype(np.float64), 1 / s)
        kind = first.weight.dtype
        if not (fits(theirs, kind) and fits(mine, kind) and fits(first.bias / s, kind)):
            return "the scaled weights leave the range of their type"
        change(first, mine, first.bias / s, edit)
        change(second, theirs, second.bias, edit)
        return None


def _next(node: ir.Node) -> ir.Node | str:
    """Return the convolution after a convolution, or say why there is none."""
    value, user = node.outputs[0], only_user(node.outputs[0])
    if user is not None and user.domain == "" and user.op_type in ("Relu", "LeakyRelu", "Clip"):
        if user.op_type == "LeakyRelu" and user.attributes.get_float("alpha", 0.01) < 0:
            return "LeakyRelu turns at a negative slope"
        if user.op_type == "Clip" and not _at_zero(user):
            return "Clip has a bound other than zero below: it is not homogeneous"
        value, user = user.outputs[0], only_user(user.outputs[0])
    if user is None:
        return "its output has several readers, or is a graph output"
    if user.domain != "" or user.op_type != "Conv" or user.inputs[0] is not value:
        return f"{user.op_type} reads it, not Conv"
    return user


def _at_zero(clip: ir.Node) -> bool:
    least, most, *_ = *clip.inputs[1:], None, None
    return least is not None and scalar(least) == 0 and most is None


def _factors(first: Weighted, second: Weighted) -> Floats:
    """Powers of two, [M]; a channel that is zero on either side stays."""
    mine = np.abs(first.weight.astype(np.float64)).reshape(first.channels, -1).max(axis=1)
    theirs = np.abs(by_input(second)).max(axis=(1, 3)).reshape(-1)
    ratio = np.where((mine > 0) & (theirs > 0), mine, 1) / np.where((mine > 0) & (theirs > 0), theirs, 1)
    factors: Floats = np.exp2(np.rint(np.log2(ratio) / 2))
    return factors
