"""A FusedConv becomes Conv, Add and its activation again, so that each can be quantized.

    FusedConv(x, W, b, r)  =  f(Conv(x, W, b) + r)        com.microsoft FusedConv-1;  f: an activation, or none

There is no integer FusedConv: one that stays makes its inputs float. What it gained in FP32 is not at stake in 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from dlc.passes.base import Pass, Rewritten, Site, rewritten
from dlc.passes.edit import Edit
from dlc.passes.fuse_conv_residual import MICROSOFT, PARAMETERS
from dlc.passes.weighted import label


@dataclass(frozen=True)
class SplitConvResidual(Pass):
    """Undo ``fuse-conv-residual``. Not applied where the activation is one that it does not write."""

    name: ClassVar[str] = "split-conv-residual"

    def call(self, model: ir.Model) -> Rewritten:
        """Visit each FusedConv of the main graph."""
        edit = Edit(model, model.graph)
        found = [n for n in model.graph if (n.domain, n.op_type) == (MICROSOFT, "FusedConv")]
        return rewritten(model, [Site(self.name, label(n), n.op_type, _split(n, edit)) for n in found])


def _split(node: ir.Node, edit: Edit) -> str | None:
    activation = node.attributes.get_string("activation", "")
    if activation and activation not in PARAMETERS:
        return f"no operator is known for the activation {activation!r}"
    x, w, b, r = (*node.inputs, None, None)[:4]
    y = node.outputs[0]

    def after(op: str, inputs: list[ir.Value | None]) -> ir.Node:
        return edit.node(op, inputs, f"{node.name}.{op.lower()}", dtype=y.dtype, shape=y.shape)

    nodes = [after("Conv", [x, w, b])]
    nodes[0].attributes.update({n: a for n, a in node.attributes.items() if not n.startswith("activation")})
    if r is not None:
        nodes.append(after("Add", [nodes[-1].outputs[0], r]))
    if activation:
        nodes.append(after(activation, [nodes[-1].outputs[0]]))
        nodes[-1].attributes.update({a.name: a for a in _parameters(node, activation)})
    edit.replace(node, nodes)
    return None


def _parameters(node: ir.Node, activation: str) -> Iterator[ir.Attr]:
    given = node.attributes.get_floats("activation_params", ())
    for (name, _), number in zip(PARAMETERS[activation], given, strict=False):
        yield ir.AttrFloat32(name, number)
