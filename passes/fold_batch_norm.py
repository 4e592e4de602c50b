"""Fold inference-mode BatchNormalization into the weights before it.

    y = gamma * (W x + b - mean) / sqrt(var + eps) + beta  =  W' x + b'
    W' = W * s,  b' = b * s + (beta - mean * s),  s = gamma / sqrt(var + eps)

ONNX BatchNormalization-15, Conv-11, ConvTranspose-11, Gemm-13.  s, b: [M].  Where M lies in W: see channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant
from dlc.passes.channels import Weighted, before, fold
from dlc.passes.edit import Edit
from dlc.passes.rewrite import Rewrite
from dlc.types import Floats

OPS = ("Conv", "ConvTranspose", "Gemm")
EPSILON = 1e-5
"""Default of the attribute ``epsilon``."""


@dataclass(frozen=True)
class FoldBatchNorm(Rewrite):
    """BatchNormalization after Conv, ConvTranspose or Gemm disappears into their weight and bias.

    Not applied if a parameter is not constant, if the output of the node before it is read elsewhere or is a graph
    output, if the weight has another reader (folding would store it twice), or in training mode.
    """

    name: ClassVar[str] = "fold-batch-norm"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return every BatchNormalization."""
        return (n for n in graph if n.op_type == "BatchNormalization" and n.domain == "")

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Fold one BatchNormalization."""
        if isinstance(found := _match(node), str):
            return found
        what, scale, shift = found
        if (reason := fold(what, scale, shift, edit)) is not None:
            return reason
        edit.stand_in(node.outputs[0], what.node.outputs[0])
        edit.remove(node)
        return None


def _match(bn: ir.Node) -> tuple[Weighted, Floats, Floats] | str:
    """Return the node before, and the scale and shift to fold into it; or say why not."""
    found = before(bn.inputs[0], bn, OPS)
    if bn.attributes.get_int("training_mode", 0) or any(v.name for v in bn.outputs[1:]):
        return "runs in training mode"
    if (params := _params(bn)) is None:
        return "scale, bias, mean or variance is not constant"
    return found if isinstance(found, str) else (found, *params)


def _params(bn: ir.Node) -> tuple[Floats, Floats] | None:
    """Return what the node multiplies each channel with, and what it adds then, [M] each."""
    arrays = [constant(v) for v in bn.inputs[1:5]]
    gamma, beta, mean, var = (None if a is None else a.astype(np.float64) for a in arrays)
    if gamma is None or beta is None or mean is None or var is None:
        return None
    scale = gamma / np.sqrt(var + bn.attributes.get_float("epsilon", EPSILON))
    return scale, beta - mean * scale
