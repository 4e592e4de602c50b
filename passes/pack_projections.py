"""Products of one input with several weights become one product, and a Split.

    x Wq + bq, x Wk + bk, x Wv + bv  =  split(x [Wq Wk Wv] + [bq bk bv])

ONNX MatMul-13, Add-14, Split-18.  x: [..., K];  W: [K, N];  b: [N].  Each sum has the terms it had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant, only_user
from dlc.passes.edit import Edit
from dlc.types import Array


@dataclass(frozen=True, slots=True)
class Projection:
    """``value = x weight + bias``."""

    value: ir.Value
    x: ir.Value
    weight: Array  # [K, N]
    bias: Array | None  # [N]


def pack(emit: Edit, values: Sequence[ir.Value | None], before: ir.Node) -> list[ir.Value] | None:
    """Compute values together, by nodes put in before a node; None if they are not biased products of one input.

    Nothing else may read them or the products behind them, and two of them may not be one and the same.
    """
    found = [None if v is None or only_user(v) is None else projection(v) for v in values]
    parts = [p for p in found if p is not None]
    if len(parts) != len(values) or len(set(values)) != len(values) or len({p.x for p in parts}) != 1:
        return None
    if len([p for p in parts if p.bias is not None]) not in (0, len(parts)):
        return None
    nodes = product(emit, parts)
    split = apart(emit, nodes[-1].outputs[0], [p.value for p in parts], [p.weight.shape[1] for p in parts], axis=-1)
    emit.insert_before(before, [*nodes, split])
    return list(split.outputs)


def product(emit: Edit, parts: Sequence[Projection]) -> list[ir.Node]:
    """Make the nodes that compute projections of one x side by side; they have no bias unless all have one."""
    x, name = parts[0].x, common_name([p.value for p in parts])
    biases = [p.bias for p in parts if p.bias is not None]
    matrix = np.concatenate([p.weight for p in parts], axis=1)
    wide = None if x.shape is None else ir.Shape([*list(x.shape)[:-1], matrix.shape[1]])
    weight = emit.constant(f"{name}.weight", matrix)
    nodes = [emit.node("MatMul", [x, weight], f"{name}.product", dtype=x.dtype, shape=wide)]
    if biases:
        bias = emit.constant(f"{name}.bias", np.concatenate(biases))
        nodes.append(emit.node("Add", [nodes[-1].outputs[0], bias], name, dtype=x.dtype, shape=wide))
    return nodes


def apart(emit: Edit, together: ir.Value, values: Sequence[ir.Value], sizes: Sequence[int], *, axis: int) -> ir.Node:
    """Make a Split into parts like some values; it is not yet in the graph."""
    name = common_name(values)
    outputs = [ir.Value(name=emit.fresh(f"{name}.{i}"), type=v.type, shape=v.shape) for i, v in enumerate(values)]
    return ir.Node(
        "", "Split", [together, emit.constant(f"{name}.sizes", np.array(sizes, np.int64))],
        [ir.AttrInt64("axis", axis)], outputs=outputs, name=emit.fresh(f"{name}.split"),
    )  # fmt: skip


def projection(value: ir.Value) -> Projection | None:
    """Read a value as ``x W + b`` or ``x W``; the product with a bias has no other reader."""
    if (node := value.producer()) is None or node.domain != "":
        return None
    bias = None
    if node.op_type == "Add":
        side = next((i for i in (0, 1) if constant(node.inputs[i]) is not None), None)
        if side is None:
            return None
        bias, product = constant(node.inputs[side]), node.inputs[1 - side]
        if product is None or only_user(product) is None or (node := product.producer()) is None:
            return None
    weight = constant(node.inputs[1]) if node.op_type == "MatMul" and node.domain == "" else None
    if weight is None or weight.ndim != 2 or (x := node.inputs[0]) is None or constant(x) is not None:
        return None
    if bias is not None and bias.shape != (weight.shape[1],):
        return None
    return Projection(value, x, weight, bias)


def common_name(values: Sequence[ir.Value]) -> str:
    """Name what several values are computed by."""
    return "+".join(str(v.name) for v in values)
