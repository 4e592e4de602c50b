"""HardSwish and HardSigmoid, written out, become one operator each.

    relu6(x + 3) / 6                     =  HardSigmoid(x),  alpha = 1/6, beta = 1/2        HardSigmoid-6
    x * relu6(x + 3) / 6                 =  HardSwish(x)                                    HardSwish-14
    x * HardSigmoid(x)                   =  HardSwish(x)

relu6 is Clip from 0 to 6; factors may come in any order, and 1/6 be a product or a division. x + 3 and x/6 + 1/2 round
differently: by eps, of a result between 0 and 1. Where ``x * relu6(x + 3)`` overflows before it is divided, x > max/6,
HardSwish gives the number. NaN and both infinities behave as they did: minus infinity gives NaN.

128x1536 in µs: Add, Clip, Mul, Div 144, HardSwish 79; Add, Clip, Div 99, HardSigmoid 38 (ONNX Runtime 1.32, AVX512, one
thread). At load ONNX Runtime writes HardSwish as HardSigmoid and Mul, so that the way back gains nothing; after a
convolution both are computed in its blocks, and a sum with a constant is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant, scalar
from dlc.passes.edit import Edit
from dlc.passes.factors import ROUNDING, Product, keeps_shape, products
from dlc.passes.rewrite import Rewrite

HARD_SWISH = 14
"""First opset with the operator HardSwish."""
SIXTH = float(np.float32(1 / 6))
ALPHA = 0.2
"""Default of the attribute ``alpha`` of HardSigmoid."""


@dataclass(frozen=True)
class FuseHardSwish(Rewrite):
    """``x * relu6(x + 3) / 6`` and ``x * HardSigmoid(x)`` become HardSwish, ``relu6(x + 3) / 6`` becomes HardSigmoid.

    Not applied with other constants, in another type than FLOAT (in FP16 the product that is divided overflows early),
    below opset 14, if a constant gives a product another rank, or if a value in between has another reader or is a
    graph output. Sites are the Clip nodes that read a sum with a constant, the HardSigmoid nodes, and the HardSwish
    nodes that are there already.
    """

    name: ClassVar[str] = "fuse-hard-swish"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return each HardSwish, each HardSigmoid, and each Clip of a sum with a constant."""
        return (n for n in graph if n.domain == "" and (n.op_type.startswith("HardS") or _shifted(n) is not None))

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Fuse around one node."""
        if node.op_type == "HardSwish":
            return "already fused"
        if (opset := edit.model.graph.opset_imports.get("", 1)) < HARD_SWISH:
            return f"opset {opset} has no HardSwish; it came with {HARD_SWISH}"
        if isinstance(found := _match(node), str):
            return found
        x, last, swish = found
        if x.dtype != ir.DataType.FLOAT:
            return f"dtype is {x.dtype.name if x.dtype else 'unknown'}, not FLOAT"
        if not keeps_shape(last, x):
            return "a product has another shape than x"
        op, y = "HardSwish" if swish else "HardSigmoid", last.outputs[0]
        fused = edit.node(op, [x], f"{last.name}.{op.lower()}", dtype=y.dtype, shape=y.shape)
        if not swish:
            fused.attributes["alpha"] = ir.AttrFloat32("alpha", SIXTH)
            fused.attributes["beta"] = ir.AttrFloat32("beta", 0.5)
        edit.replace(last, fused)
        return None


def _match(node: ir.Node) -> tuple[ir.Value, ir.Node, bool] | str:
    """Return x, the node that completes the function, and whether it is HardSwish; or say why there is none."""
    if node.op_type == "HardSigmoid":
        x, unit = node.inputs[0], 1.0
        alpha, beta = node.attributes.get_float("alpha", ALPHA), node.attributes.get_float("beta", 0.5)
        if abs(alpha * 6 - 1) > ROUNDING or beta != 0.5:
            return "not the HardSigmoid of HardSwish: alpha = 1/6, beta = 1/2"
    else:
        found = _shifted(node)
        assert found is not None
        (x, shift), unit = found, 6.0
        if shift != 3:
            return f"adds {shift:g}, not 3"
        if [scalar(v) for v in node.inputs[1:]] != [0.0, 6.0]:
            return "does not clip to 0 and 6"
    assert x is not None
    complete = [p for p in products(node.outputs[0], x) if abs(p.factor * unit - 1) <= ROUNDING]
    best: Product | None = next((p for p in complete if p.times_x), None)
    if best is None and node.op_type == "HardSigmoid":
        return "it is not multiplied with x, or has another reader"
    if best is None and not complete:
        return "it is not divided by 6, or has another reader before it is"
    best = best or complete[0]
    return x, best.last, best.times_x


def _shifted(clip: ir.Node) -> tuple[ir.Value, float] | None:
    """Return x and c where a Clip reads ``x + c``."""
    node = clip.inputs[0].producer() if clip.op_type == "Clip" and clip.inputs[0] is not None else None
    if node is None or node.domain != "" or node.op_type != "Add" or node.graph is not clip.graph:
        return None
    for x, other in (tuple(node.inputs), tuple(reversed(node.inputs))):
        if x is not None and constant(x) is None and (shift := scalar(other)) is not None:
            return x, shift
    return None
