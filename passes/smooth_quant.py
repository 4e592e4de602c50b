"""Smoothing: a large channel of an activation is made small, and its weights large, where 8 bits spare weights most.

    y W  =  (y / s) (s W)        y: [..., K], s: [K], W: [K, N]

y comes from LayerNormalization-17, RMSNormalization-23 or SimplifiedLayerNormalization; its scale and bias take 1 / s.
All products that read y are changed together. Where something else reads y as well, as the residual sum of a post-norm
transformer does, a Mul by 1 / s stands before the products. G. Xiao et al., 2022, "SmoothQuant".
If s are powers of two, nothing is rounded, so every number stays what it was, barring underflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant
from dlc.passes.channels import Weighted, change, fits, weighted
from dlc.passes.edit import Edit
from dlc.passes.fold_input_scale import by_input, restored
from dlc.passes.rewrite import Rewrite
from dlc.types import Floats

NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")


@dataclass(frozen=True)
class SmoothQuant(Rewrite):
    """Divide normalised activations by ``factors``, [K] by the name of the value, and multiply the weights by them.

    Not applied if factors are not positive numbers, one a channel, if no MatMul or Gemm with a constant weight of its
    own reads the value, if the scale or bias of the normalisation is not constant, or if a scaled constant leaves the
    range of its type. A second application smooths again.
    """

    name: ClassVar[str] = "smooth-quant"
    factors: Mapping[str, Floats] = field(default_factory=dict, repr=False)

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return the normalisations."""
        return (n for n in graph if n.op_type in NORMS and n.domain == "")

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Smooth what one normalisation gives."""
        y = node.outputs[0]
        if (s := self.factors.get(str(y.name))) is None:
            return "no factors for its output"
        if isinstance(products := readers(node), str):
            return products
        if s.shape != (by_input(products[0]).shape[2],) or not (np.isfinite(s) & (s > 0)).all():
            return "the factors are not one positive number per channel"
        weights = [restored(each, by_input(each) * s[:, None]) for each in products]
        kinds = [each.weight.dtype for each in products]
        if not all(map(fits, weights, kinds)) or not fits(1 / s, kinds[0]):
            return "a smoothed weight leaves the range of its type"
        alone = len(tuple(y.uses())) == len(products) and not y.is_graph_output()
        if (reason := _divide(node, s, edit) if alone else _insert(node, products, s, edit)) is not None:
            return reason
        for each, weight in zip(products, weights, strict=True):
            change(each, weight, each.bias, edit)
        edit.context(node)
        return None


def readers(node: ir.Node) -> list[Weighted] | str:
    """Return the products that read the output of a normalisation over the last axis, or say why there are none."""
    if node.op_type != "SimplifiedLayerNormalization" and node.attributes.get_int("axis", -1) != -1:
        return "it is not over the last axis alone"
    y = node.outputs[0]
    users = [u.node for u in y.uses() if u.idx == 0 and u.node.op_type in ("MatMul", "Gemm") and u.node.domain == ""]
    found = [weighted(u) for u in users if u.graph is node.graph and not u.attributes.get_int("transA", 0)]
    products = [each for each in found if isinstance(each, Weighted)]
    if not products:
        return next((each for each in found if isinstance(each, str)), "no MatMul or Gemm reads it")
    return products


def _divide(node: ir.Node, s: Floats, edit: Edit) -> str | None:
    """Divide the scale and the bias of a normalisation."""
    old = [v for v in node.inputs[1:3] if v is not None]
    arrays = [constant(v) for v in old]
    new = [None if a is None or a.shape != s.shape else a.astype(np.float64) / s for a in arrays]
    if not new or any(a is None for a in new):
        return "its scale or bias is not a constant, one per channel"
    if not all(
        fits(a, before.dtype) for a, before in zip(new, arrays, strict=True) if a is not None and before is not None
    ):
        return "a smoothed weight leaves the range of its type"
    for i, (value, array) in enumerate(zip(old, new, strict=True)):
        assert array is not None
        assert value.const_value is not None
        kind = value.const_value.numpy().dtype
        node.replace_input_with(1 + i, edit.constant(f"{value.name}.smooth", array.astype(kind)))
    edit.drop_unused(old)
    return None


def _insert(node: ir.Node, products: list[Weighted], s: Floats, edit: Edit) -> str | None:
    """Divide what the products read, and nothing else."""
    y = node.outputs[0]
    inverse = edit.constant(f"{y.name}.inverse", (1 / s).astype(products[0].weight.dtype))
    divided = edit.node("Mul", [y, inverse], f"{y.name}.smooth", dtype=y.dtype, shape=y.shape)
    theirs = {each.node for each in products}
    edit.insert_before(next(n for n in edit.graph if n in theirs), divided)
    for each in products:
        each.node.replace_input_with(0, divided.outputs[0])
    return None
