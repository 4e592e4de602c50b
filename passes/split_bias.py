"""A Gemm becomes a product and a sum.

    Reshape(Gemm(Reshape(x, [-1, K]), W, b), [..., N])  =  MatMul(x, W) + b        x: [..., K],  W: [K, N],  b: [N]
    Gemm(x, W, b)  =  Sum(MatMul(x, W), b)                                         x: [M, K]

The first is how ``addmm`` on a view is exported: without the views the product is one that other rewrites know. The
second is written with Sum: MatMul and Add of rank 2 are a Gemm again once ONNX Runtime has loaded them. Each sum has
the terms it had. Sum against Gemm, 1280x1000, rows 1 / 8 / 128: 1.06x / 1.04x / 1.01x, and never below 1.01x in 15
sizes (ONNX Runtime 1.32, AVX512, one thread): it is there for targets whose Gemm is the slower.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from dlc.passes.base import only_user
from dlc.passes.channels import Weighted, weighted
from dlc.passes.edit import Edit
from dlc.passes.extents import extents, matches, reshaped
from dlc.passes.rewrite import Rewrite
from dlc.types import Array


@dataclass(frozen=True)
class SplitBias(Rewrite):
    """Gemm becomes MatMul and Sum, or MatMul and Add in the place of the views around it as well.

    Not applied if weight or bias are not constants of its own, one bias a column, or if x is read transposed.
    """

    name: ClassVar[str] = "split-bias"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return each Gemm."""
        return (n for n in graph if n.op_type == "Gemm" and n.domain == "")

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Split one Gemm."""
        if node.attributes.get_int("transA", 0):
            return "Gemm reads x transposed"
        if isinstance(found := weighted(node), str):
            return found
        x, last = _views(node, found) or (node.inputs[0], node)
        y, unwrapped = last.outputs[0], last is not node
        assert x is not None
        name, kind = node.name, found.weight.dtype
        weight = edit.constant(f"{name}.weight", _matrix(found))
        product = edit.node("MatMul", [x, weight], f"{name}.product", dtype=y.dtype, shape=y.shape)
        nodes = [product]
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            bias = edit.constant(f"{name}.bias", np.broadcast_to(found.bias, found.channels).astype(kind))
            op, inputs = "Add" if unwrapped else "Sum", [product.outputs[0], bias]
            nodes.append(edit.node(op, inputs, f"{name}.sum", dtype=y.dtype, shape=y.shape))
        edit.replace(last, nodes)
        return None


def _matrix(found: Weighted) -> Array:
    """Return alpha W as [K, N], rounded once."""
    gemm, kind = found.node, found.weight.dtype
    matrix = found.weight.T if gemm.attributes.get_int("transB", 0) else found.weight
    return np.ascontiguousarray((matrix.astype(np.float64) * gemm.attributes.get_float("alpha", 1.0)).astype(kind))


def _views(gemm: ir.Node, found: Weighted) -> tuple[ir.Value, ir.Node] | None:
    """Return what a Reshape flattens for a Gemm, and the Reshape that undoes it; None if they do not only do that."""
    flat = gemm.inputs[0].producer() if gemm.inputs[0] is not None else None
    back = only_user(gemm.outputs[0])
    if not (_is_view(flat, gemm) and _is_view(back, gemm)):
        return None
    assert flat is not None
    assert back is not None
    x, depth = extents(flat.inputs[0]), found.weight.size // max(found.channels, 1)
    if x is None or len(x) < 3 or depth == 0 or x[-1] != depth:
        return None
    wanted = (*x[:-1], found.channels)
    if not matches(reshaped(back), wanted) and (None in wanted or extents(back.outputs[0]) != wanted):
        return None
    assert flat.inputs[0] is not None
    return flat.inputs[0], back


def _is_view(node: ir.Node | None, gemm: ir.Node) -> bool:
    return node is not None and node.domain == "" and node.op_type == "Reshape" and node.graph is gemm.graph
