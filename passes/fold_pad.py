"""Fold a Pad of spatial axes into the convolution or pool that reads it.

    Conv(Pad(x, p), q)  =  Conv(x, pads = p + q)        zeros
    AveragePool(Pad(x, p), q)  =  AveragePool(x, pads = p + q, count_include_pad = 1)        zeros, q = 0 or counted
    MaxPool(Pad(x, p), q)  =  MaxPool(x, pads = p + q)        the lowest number; or zeros, if x >= 0

A MaxPool pads with what is below every number: zeros among numbers that are not negative are the same, as long as each
window holds one of them. Canonicalisation folds a Pad that one Conv reads; this also folds one that several nodes read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant, scalar
from dlc.passes.edit import Edit
from dlc.passes.rewrite import Rewrite

READERS = ("Conv", "AveragePool", "MaxPool")
NOT_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softplus", "Abs", "Exp", "Softmax")


@dataclass(frozen=True)
class FoldPad(Rewrite):
    """A Pad disappears into all its readers: each a Conv, AveragePool or MaxPool.

    Not applied if the amounts are not constant, negative, or on the first two axes; if the padding is not what the
    readers pad with; or if one reader is another operator, sets its padding itself (``auto_pad``), rounds its size up
    (``ceil_mode``), or is a pool that would pad as much as its window or more, or that is dilated.
    """

    name: ClassVar[str] = "fold-pad"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return each Pad."""
        return (n for n in graph if n.op_type == "Pad" and n.domain == "")

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Fold one Pad into its readers."""
        x, y = node.inputs[0], node.outputs[0]
        if x is None or isinstance(amounts := _amounts(node), str):
            return "the amounts are not constant" if x is None else str(amounts)
        uses = list(y.uses())
        if y.is_graph_output() or not uses:
            return "the result is a graph output, or nothing reads it"
        padded: list[list[int]] = []
        for use in uses:
            reader = use.node
            if reader.graph is not node.graph or use.idx or reader.op_type not in READERS or reader.domain != "":
                return "read by something else than Conv, AveragePool or MaxPool"
            if isinstance(pads := _padded(reader, amounts, _value(node), x), str):
                return pads
            padded.append(pads)
        edit.context(*(use.node for use in uses))
        for use, pads in zip(uses, padded, strict=True):
            use.node.attributes["pads"] = ir.AttrInt64s("pads", pads)
            use.node.attributes.pop("auto_pad", None)
            if use.node.op_type == "AveragePool":
                use.node.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
        if not edit.bypass(node, x):
            raise AssertionError(f"{node.name} is no graph output")
        return None


def _amounts(pad: ir.Node) -> list[int] | str:  # noqa: PLR0911 - one return a guard
    """Return what a Pad adds to the spatial axes, all beginnings, then all ends; or say why it cannot be folded."""
    x = pad.inputs[0]
    if pad.attributes.get_string("mode", "constant") != "constant":
        return "does not pad with a constant"
    if x is None or x.shape is None or len(x.shape) < 3:
        return "the rank is unknown or below 3"
    rank = len(x.shape)
    given = constant(pad.inputs[1]) if len(pad.inputs) > 1 else None
    if given is None:
        return "the amounts are not constant"
    axes = list(range(rank))
    if len(pad.inputs) > 3 and pad.inputs[3] is not None:
        if (chosen := constant(pad.inputs[3])) is None:
            return "the axes are not constant"
        axes = [int(a) % rank for a in chosen.reshape(-1)]
    full = np.zeros((2, rank), dtype=np.int64)
    full[:, axes] = given.reshape(2, -1)
    if full.min() < 0:
        return "crops"
    if full[:, :2].any():
        return "pads the first two axes"
    return [int(n) for n in full[:, 2:].reshape(-1)]


def _value(pad: ir.Node) -> float | None:
    """Return what a Pad pads with, None if unknown."""
    return 0.0 if len(pad.inputs) < 3 or pad.inputs[2] is None else scalar(pad.inputs[2])


def _padded(  # noqa: PLR0911 - one return a guard
    reader: ir.Node, amounts: Sequence[int], value: float | None, x: ir.Value
) -> list[int] | str:
    """Return the padding of a reader together with that of the Pad, or say why they cannot be one."""
    if reader.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return f"{reader.op_type} sets its padding itself"
    own = [int(n) for n in reader.attributes.get_ints("pads", None) or [0] * len(amounts)]
    pads = [a + b for a, b in zip(amounts, own, strict=True)]
    if reader.op_type == "Conv":
        return pads if value == 0 else "pads with another number than 0"
    if reader.attributes.get_int("ceil_mode", 0):
        return f"{reader.op_type} rounds its size up"
    if any(d != 1 for d in reader.attributes.get_ints("dilations", None) or ()):
        return f"{reader.op_type} is dilated: a window might hold padding alone"
    window = [int(n) for n in reader.attributes.get_ints("kernel_shape", ())]
    if any(n >= k for n, k in zip(pads, [*window, *window], strict=True)):
        return f"{reader.op_type} would pad as much as its window"
    if reader.op_type == "AveragePool":
        if value != 0:
            return "pads with another number than 0"
        counted = reader.attributes.get_int("count_include_pad", 0) == 1 or not any(own)
        return pads if counted else "AveragePool does not count its own padding"
    if len(reader.outputs) > 1 and reader.outputs[1].name:
        return "MaxPool returns places in the padded map"
    low = value is not None and value <= _lowest(x)
    return pads if low or (value == 0 and _not_negative(x)) else "MaxPool would pad with another number"


def _lowest(x: ir.Value) -> float:
    """Return the number below which no finite number of a type lies."""
    kind = x.dtype.numpy() if x.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE) else None
    return -np.inf if kind is None else float(np.finfo(kind).min)


def _not_negative(x: ir.Value) -> bool:
    node = x.producer()
    if node is None or node.domain != "":
        return False
    if node.op_type == "Clip":
        low = scalar(node.inputs[1]) if len(node.inputs) > 1 else None
        return low is not None and low >= 0
    return node.op_type in NOT_NEGATIVE
