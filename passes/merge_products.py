"""Products of one input with several constant weights become one product, and a Split.

    f(x W1 + b1), f(x W2 + b2), ...  =  split(f(x [W1 W2 ...] + [b1 b2 ...]))        f: an activation or none

Queries, keys and values; gate and up of a gated perceptron; the 1x1 convolutions at the head of an Inception block.
MatMul-13 with Add-14, Gemm-13 and Conv-11 side by side along the output channels; Split-13.  Each sum has the terms it
had.  One wide product reads x once, and has fewer calls; the Split copies what it computed.
Three biased products for 1 / 8 / 128 rows: [64, 64] 0.93x / 0.93x / 0.99x, [384, 384] 0.96x / 0.98x / 1.02x,
[576, 1536] 0.95x / 1.07x / 0.99x. Gate and up, and convolutions, which leave ONNX Runtime's blocks for the Split:
0.96x to 1.06x (ONNX Runtime 1.32, AVX512, one thread).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from dlc.passes.base import only_user
from dlc.passes.channels import Weighted, weighted
from dlc.passes.edit import Edit
from dlc.passes.fuse_gemm import ACTIVATIONS
from dlc.passes.pack_projections import Projection, apart, common_name, product, projection
from dlc.passes.rewrite import Rewrite

OPS = ("MatMul", "Gemm", "Conv")
SPLIT = 13
"""First opset whose Split reads the sizes of its parts."""


@dataclass(frozen=True)
class MergeProducts(Rewrite):
    """Several MatMul, Gemm or Conv of one kind that read one value become one, and a Split.

    Of convolutions, those with the same attributes and kernel. A product is left out if its weight or bias is not a
    constant of its own, one bias a channel, or if it is grouped; two at least must be left. Sites are the first
    product of each kind that reads a value.
    """

    name: ClassVar[str] = "merge-products"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return the first of several products of one kind that read one value."""
        kinds: dict[Hashable, list[ir.Node]] = {}
        for node in graph:
            if node.domain == "" and node.op_type in OPS:
                kinds.setdefault(_kind(node), []).append(node)
        return (several[0] for several in kinds.values() if len(several) > 1)

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Merge a product with those of its kind."""
        if (opset := edit.model.graph.opset_imports.get("", 1)) < SPLIT:
            return f"opset {opset} has no Split of given sizes; it came with {SPLIT}"
        found = [_mergeable(n) for n in _alike(node)]
        several = [w for w in found if not isinstance(w, str)]
        if len(several) < 2:
            return next(w for w in found if isinstance(w, str))
        nodes, values = _matmuls(several, edit) if node.op_type == "MatMul" else _wide(several, edit)
        if (activations := _activations(values)) is not None:
            first, last = activations[0], nodes[-1].outputs[0]
            name = common_name([a.outputs[0] for a in activations])
            nodes.append(edit.node(first.op_type, [last], name, dtype=last.dtype, shape=last.shape))
            nodes[-1].attributes.update(first.attributes)
            values = [a.outputs[0] for a in activations]
        axis = -1 if node.op_type == "MatMul" else 1
        split = apart(edit, nodes[-1].outputs[0], values, [w.channels for w in several], axis=axis)
        edit.insert_before(node, [*nodes, split])
        for value, part in zip(values, list(split.outputs), strict=True):
            old = value.producer()
            assert old is not None
            edit.stand_in(value, part)
            edit.remove(old)
        return None


def _kind(node: ir.Node) -> Hashable:
    """Return what products must share to be merged."""
    w = node.inputs[1]
    kernel = () if w is None or w.shape is None or node.op_type != "Conv" else tuple(w.shape[1:])
    attributes = tuple(sorted((a.name, str(a.value)) for a in node.attributes.values()))
    return node.inputs[0], node.op_type, kernel, attributes


def _alike(node: ir.Node) -> list[ir.Node]:
    """Return the products of the kind of one, itself among them."""
    x, kind = node.inputs[0], _kind(node)
    assert x is not None
    near = (u.node for u in x.uses() if u.idx == 0 and u.node.graph is node.graph)
    return [n for n in near if n.domain == "" and n.op_type == node.op_type and _kind(n) == kind]


def _mergeable(node: ir.Node) -> Weighted | str:
    """Return a product with its weight and bias, or say why it cannot be merged."""
    if node.attributes.get_int("group", 1) != 1:
        return "the convolution is grouped"
    return weighted(node)


def _matmuls(several: Sequence[Weighted], edit: Edit) -> tuple[list[ir.Node], list[ir.Value]]:
    """Return the nodes of one wide MatMul, and the values it stands for; with a bias if one of them has a bias."""
    parts = [_projection(w) for w in several]
    if any(p.bias is not None for p in parts):
        zeros = (np.zeros(p.weight.shape[1], p.weight.dtype) for p in parts)
        parts = [replace(p, bias=zero if p.bias is None else p.bias) for p, zero in zip(parts, zeros, strict=True)]
    return product(edit, parts), [p.value for p in parts]


def _projection(found: Weighted) -> Projection:
    """Return a product, with the constant bias after it if there is one."""
    y = found.node.outputs[0]
    user = only_user(y)
    biased = projection(user.outputs[0]) if user is not None and user.op_type == "Add" else None
    x = found.node.inputs[0]
    assert x is not None
    return biased or Projection(y, x, found.weight, None)


def _wide(several: Sequence[Weighted], edit: Edit) -> tuple[list[ir.Node], list[ir.Value]]:
    """Return one wide Gemm or Conv, and the values it stands for."""
    first, values = several[0].node, [w.node.outputs[0] for w in several]
    name, y, kind = common_name(values), values[0], several[0].weight.dtype
    rows = first.op_type == "Conv" or first.attributes.get_int("transB", 0) == 1
    weight = np.concatenate([w.weight for w in several], axis=0 if rows else 1)
    inputs = [first.inputs[0], edit.constant(f"{name}.weight", weight)]
    if any(len(w.node.inputs) > 2 for w in several):
        biases = [np.broadcast_to(w.bias, w.channels) for w in several]
        inputs.append(edit.constant(f"{name}.bias", np.concatenate(biases).astype(kind)))
    channels = sum(w.channels for w in several)
    shape = None if y.shape is None else ir.Shape([y.shape[0], channels, *y.shape[2:]])
    node = edit.node(first.op_type, inputs, name, dtype=y.dtype, shape=shape)
    node.attributes.update(first.attributes)
    if "beta" in node.attributes:
        node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)  # the bias is multiplied with it
    return [node], values


def _activations(values: Sequence[ir.Value]) -> list[ir.Node] | None:
    """Return the activations that read some values, if nothing else does and all are the same."""
    users = [only_user(v) for v in values]
    nodes = [n for n in users if n is not None and n.domain == "" and n.op_type in ACTIVATIONS]
    texts = {(n.op_type, *sorted((a.name, str(a.value)) for a in n.attributes.values())) for n in nodes}
    return nodes if len(nodes) == len(values) and len(texts) == 1 else None
