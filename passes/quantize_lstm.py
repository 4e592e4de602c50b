"""Dynamic int8 LSTM: the two products of each step are summed in integers; gates, cell and state stay FP32.

    gates_t = x_t W^T + h_{t-1} R^T + b        W: [D, 4H, K], R: [D, 4H, H]; D directions, H hidden
            ~ sx sw (xq_t Wq) + sh sr (hq_{t-1} Rq) + b

    Wq, Rq   s8, symmetric, one scale for each column, [D, 4H]; stored as [D, K, 4H] and [D, H, 4H]
    xq       u8, quantized once for the whole sequence;  hq: u8, quantized anew at each step

LSTM-7, 14 or 22 to com.microsoft DynamicQuantizeLSTM-1, which shares all but its products with the FP32 kernel: bias,
initial states, lengths, peepholes, clip, directions and activations are passed on as they are. The first GEMM has a row
for each step, the second only one for each example: an FP32 step waits for R to come from the cache, so a quarter
of the bytes is most of the gain. GRU and RNN have no integer kernel in ONNX Runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from dlc.passes.base import Pass, Rewritten, Site, all_nodes, constant, rewritten
from dlc.passes.emit import Emitter, drop_unused
from dlc.passes.quantize_dynamic import FLOAT, FULL, MICROSOFT, REDUCED
from dlc.passes.weighted import label
from dlc.types import Array

KERNEL = "DynamicQuantizeLSTM"
MOVES = ("Gather", "Identity", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
WEIGHTS = {1: "W", 2: "R"}
"""Inputs that are quantized; the kernel takes the rest of the eight as they are."""


@dataclass(frozen=True)
class QuantizeLstm(Pass):
    """LSTM with constant weights computes its products in int8.

    ``reduce_range``: weights of 7 bits, for targets without an integer dot product. ``inputs``: also where the
    sequence is an input of the model. Features come in units of their own, and one scale for a whole sequence then
    rounds most to nothing: Resemblyzer reads a power spectrogram, and its equal error rate goes from 0.3 to 6.7 %.
    ``exclude``: nodes that stay in FP32, by label.
    """

    name: ClassVar[str] = "quantize-lstm"
    changes_numbers: ClassVar[bool] = True
    reduce_range: bool = False
    inputs: bool = False
    exclude: tuple[str, ...] = ()

    def call(self, model: ir.Model) -> Rewritten:
        """Visit each LSTM."""
        rewriter = _Rewriter(model.graph, self)
        found = [n for n in all_nodes(model.graph) if n.op_type == "LSTM" and n.domain == ""]
        sites = [Site(self.name, label(n), n.op_type, rewriter.rewrite(n)) for n in found]
        drop_unused(model.graph, rewriter.replaced)
        if any(s.applied for s in sites):
            model.graph.opset_imports.setdefault(MICROSOFT, 1)
        return rewritten(model, sites)


@dataclass(frozen=True, slots=True)
class _Quantized:
    """A weight as the kernel reads it. A zero point is as long as its scale: the kernel steps over both alike."""

    weight: ir.Value
    scale: ir.Value
    zero: ir.Value


class _Rewriter:
    """Rewrites the nodes of one graph; a weight that several read is quantized once."""

    def __init__(self, graph: ir.Graph, options: QuantizeLstm) -> None:
        self.graph = graph
        self.limit = REDUCED if options.reduce_range else FULL
        self.options = options
        self.emit = Emitter(graph)
        self.replaced: list[ir.Value] = []
        self._weights: dict[ir.Value, _Quantized] = {}

    def rewrite(self, node: ir.Node) -> str | None:
        """Quantize one node and return None, or return why not."""
        if node.graph is not self.graph:
            return "the node is in a subgraph"
        if label(node) in self.options.exclude:
            return "excluded"
        if node.attributes.get_int("layout", 0) != 0:
            return f"layout=1: {KERNEL} reads the sequence first"
        if not self.options.inputs and (source := _source(node.inputs[0])) is not None:
            return f"it reads the input {source!r}, which one scale for a whole sequence may not hold: inputs=False"
        weights = [node.inputs[i] for i in WEIGHTS]
        for value, name in zip(weights, WEIGHTS.values(), strict=True):
            if (reason := _unfit(value, name)) is not None:
                return reason
        w, r = (self._weight(v) for v in weights if v is not None)
        inputs = [node.inputs[0], w.weight, r.weight, *_rest(node), w.scale, w.zero, r.scale, r.zero]
        attributes = [a for name, a in node.attributes.items() if name not in ("hidden_size", "layout")]
        hidden = ir.AttrInt64("hidden_size", r.weight.const_value.shape.numpy()[1])  # type: ignore[union-attr]
        outputs = [
            ir.Value(name=self.emit.fresh(f"{v.name}.int8") if v.name else "", type=v.type, shape=v.shape)
            for v in node.outputs
        ]
        name = self.emit.fresh(f"{label(node)}.{KERNEL}")
        new = ir.Node(MICROSOFT, KERNEL, inputs, [*attributes, hidden], outputs=outputs, name=name)
        ir.convenience.replace_nodes_and_values(self.graph, node, [node], [new], list(node.outputs), outputs)
        self.replaced.extend(v for v in weights if v is not None)
        return None

    def _weight(self, value: ir.Value) -> _Quantized:
        if value not in self._weights:
            array = constant(value)
            assert array is not None
            quantized, scale = quantize(array, limit=self.limit)
            self._weights[value] = _Quantized(
                self.emit.constant(f"{value.name}.quantized", quantized),
                self.emit.constant(f"{value.name}.scale", scale),
                self.emit.constant(f"{value.name}.zero_point", np.zeros(scale.shape, np.int8)),
            )
        return self._weights[value]


def quantize(weight: Array, *, limit: int) -> tuple[Array, Array]:
    """Round [D, 4H, K] to ``-limit..limit``: s8 [D, K, 4H], and scales [D, 4H]; a row of zeros has scale 1."""
    peak = np.abs(weight).max(axis=2, initial=0.0).astype(np.float64)  # [D, 4H]
    scale = np.where(peak > 0, peak / limit, 1.0)
    rounded = np.rint(weight / scale[..., None]).clip(-limit, limit).astype(np.int8)
    return np.ascontiguousarray(rounded.transpose(0, 2, 1)), scale.astype(np.float32)


def _source(value: ir.Value | None) -> str | None:
    """Return the graph input that a value is, but for the order of its elements."""
    while value is not None and (node := value.producer()) is not None and node.op_type in MOVES:
        value = node.inputs[0]
    return value.name if value is not None and value.is_graph_input() else None


def _rest(node: ir.Node) -> list[ir.Value | None]:
    """Bias, lengths, initial h, initial c and peepholes: five, None where absent."""
    given = list(node.inputs[3:8])
    return given + [None] * (5 - len(given))


def _unfit(value: ir.Value | None, name: str) -> str | None:
    if value is None or not value.is_initializer() or value.is_graph_input():
        return f"{name} is not constant"
    array = constant(value)
    if value.dtype != FLOAT or array is None:
        return f"{name} is {value.dtype.name if value.dtype else 'of unknown type'}, not FLOAT"
    if value.is_graph_output():
        return f"{name} is a graph output"
    if others := {u.node.op_type for u in value.uses()} - {"LSTM", KERNEL}:
        return f"{name} is also read by {min(others)}, which keeps it in FP32: the file would hold it twice"
    return None if np.isfinite(array).all() else f"{name} holds NaN or infinity"
