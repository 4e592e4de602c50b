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
class _Projection:
    x: ir.Value
    weight: Array  # [K, N]
    bias: Array | None  # [N]


def pack(emit: Edit, values: Sequence[ir.Value | None], before: ir.Node) -> list[ir.Value] | None:
    """Compute values together, by nodes put in before a node; None if they are not biased products of one input.

    Nothing else may read them or the products behind them, and two of them may not be one and the same.
    """
    found = [_projection(v) for v in values]
    parts = [p for p in found if p is not None]
    if len(parts) != len(values) or len(set(values)) != len(values) or len({p.x for p in parts}) != 1:
        return None
    biases = [p.bias for p in parts if p.bias is not None]
    if len(biases) not in (0, len(parts)):
        return None
    x, sizes = parts[0].x, [p.weight.shape[1] for p in parts]
    name = _common_name(values)
    lead = list(x.shape)[:-1] if x.shape is not None else None
    wide = None if lead is None else ir.Shape([*lead, sum(sizes)])
    weight = emit.constant(f"{name}.weight", np.concatenate([p.weight for p in parts], axis=1))
    nodes = [emit.node("MatMul", [x, weight], f"{name}.product", dtype=x.dtype, shape=wide)]
    if biases:
        bias = emit.constant(f"{name}.bias", np.concatenate(biases))
        nodes.append(emit.node("Add", [nodes[-1].outputs[0], bias], name, dtype=x.dtype, shape=wide))
    outputs = [ir.Value(name=emit.fresh(f"{name}.{i}"), type=v.type, shape=v.shape) for i, v in enumerate(values) if v]
    split = ir.Node(
        "", "Split", [nodes[-1].outputs[0], emit.constant(f"{name}.sizes", np.array(sizes, np.int64))],
        [ir.AttrInt64("axis", -1)], outputs=outputs, name=emit.fresh(f"{name}.split"),
    )  # fmt: skip
    emit.insert_before(before, [*nodes, split])
    return outputs


def _projection(value: ir.Value | None) -> _Projection | None:
    """``x W + b`` or ``x W``, read by one node only."""
    if value is None or only_user(value) is None or (node := value.producer()) is None or node.domain != "":
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
    return _Projection(x, weight, bias)


def _common_name(values: Sequence[ir.Value | None]) -> str:
    return "+".join(str(v.name) for v in values if v is not None)
