"""Which nodes can compute in 8 bits: whole units that ONNX Runtime turns into one integer kernel.

A unit is one node, its inputs dequantized from 8 bits, and its output quantized to 8 bits; a ReLU or Clip behind it
disappears into the saturation of that quantization. Weighted nodes decide; element-wise and pooling nodes follow only
between nodes that are 8 bit anyway, where they save a conversion; nodes that only move data keep scale and zero point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant, only_user, scalar
from dlc.passes.weighted import is_weight, weights_of

JOINS = ("Add", "Mul", "Concat", "GlobalAveragePool", "AveragePool", "ReduceMean", "LeakyRelu", "Sigmoid")
"""Have integer kernels with an output scale of their own."""
MOVES = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze")
"""Only move data: input and output share scale and zero point."""
CLIPS = ("Relu", "Clip")


@dataclass(frozen=True, slots=True)
class Unit:
    """A node that will compute in 8 bits.

    ``clip`` is the ReLU or Clip that its output quantization absorbs, with its bounds; ``quantized`` tells whether the
    output is 8 bit, ``moves`` whether it keeps the input's scale.
    """

    node: ir.Node
    inputs: tuple[ir.Value, ...]
    clip: ir.Node | None
    bounds: tuple[float, float]
    quantized: bool
    moves: bool

    @property
    def output(self) -> ir.Value:
        """Value that others read."""
        return (self.clip or self.node).outputs[0]


@dataclass(frozen=True, slots=True)
class Plan:
    """Units in graph order, and the weighted nodes that stay in float, with the reason."""

    units: tuple[Unit, ...]
    refused: Mapping[ir.Node, str]

    @property
    def measured(self) -> tuple[ir.Value, ...]:
        """Values whose range must be known, in graph order."""
        known: dict[ir.Value, bool] = {}
        for unit in self.units:
            for value in unit.inputs:
                known.setdefault(value, True)
            if unit.quantized:
                known[unit.output] = not unit.moves
        return tuple(v for v, measured in known.items() if measured)


def plan(model: ir.Model, refused: Mapping[ir.Node, str]) -> Plan:
    """Choose the units of a graph; ``refused`` holds nodes that must stay in float, with the reason."""
    graph = model.graph
    weighted = {node: refused.get(node) or refusal(node) for node in graph if weights_of(node)}
    eligible = {node for node, reason in weighted.items() if reason is None}
    wanted = _wanted(graph, eligible)
    ready = {v for node in eligible for v in _activations(node)}
    units: list[Unit] = []
    for node in graph:
        if node in eligible:
            unit = _unit(node, quantized=node.op_type == "Conv" or node.outputs[0] in wanted)
        elif node not in refused and node.outputs[0] in wanted and _follows(node, ready):
            unit = _unit(node, quantized=True)
        else:
            continue
        units.append(unit)
        if unit.quantized:
            ready.add(unit.output)
    return Plan(tuple(units), {node: reason for node, reason in weighted.items() if reason is not None})


def refusal(node: ir.Node) -> str | None:
    """Why a weighted node cannot become an integer kernel; None if it can."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return f"only Conv, Gemm and MatMul have a static 8-bit kernel for a constant, {node.op_type} has none"
    return _refused_operands(node) or (_refused_gemm(node) if node.op_type == "Gemm" else None)


def _refused_operands(node: ir.Node) -> str | None:
    x, w, bias, *_ = *node.inputs, None
    if x is None or is_weight(x) or (weight := constant(w)) is None:
        return "the weight is not the second operand"
    if weight.dtype != np.float32:
        return f"computes in {weight.dtype}, not float32"
    if node.op_type != "Conv" and weight.ndim != 2:
        return f"the weight has {weight.ndim} dimensions, not 2"
    outputs = weight.shape[weight_axis(node)]
    terms = [weight]
    if bias is not None:
        if (term := constant(bias)) is None or term.shape != (outputs,):
            return f"the bias is not a constant of {outputs} elements"
        terms.append(term)
    return None if all(np.isfinite(term).all() for term in terms) else "the weight or bias holds NaN or infinity"


def _refused_gemm(node: ir.Node) -> str | None:
    if (node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)) != (1.0, 1.0):
        return "alpha or beta is not 1"
    return "transposes its activation" if node.attributes.get_int("transA", 0) else None


def weight_axis(node: ir.Node) -> int:
    """Axis of the weight that counts the outputs."""
    transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
    return 0 if node.op_type == "Conv" or transposed else 1


def spatial_mean(node: ir.Node) -> bool:
    """Whether a node averages all pixels of [N, C, H, W] and keeps the axes: a GlobalAveragePool by another name."""
    x = node.inputs[0]
    if x is None or x.shape is None or len(x.shape) != 4 or node.attributes.get_int("keepdims", 1) != 1:
        return False
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else np.array(node.attributes.get_ints("axes", ()))
    return axes is not None and sorted(axes.reshape(-1) % 4) == [2, 3]


def _unit(node: ir.Node, *, quantized: bool) -> Unit:
    moves = node.op_type in MOVES
    clip = only_user(node.outputs[0]) if quantized and not moves else None
    bounds = _bounds(clip) if clip is not None else None
    if bounds is None:
        return Unit(node, _activations(node), None, (-np.inf, np.inf), quantized, moves)
    return Unit(node, _activations(node), clip, bounds, quantized, moves)


def _bounds(node: ir.Node) -> tuple[float, float] | None:
    """Return the bounds of a ReLU or Clip, if they are constant and zero lies between them."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    least, most, *_ = *node.inputs[1:], None, None
    low = -np.inf if least is None else scalar(least)
    high = np.inf if most is None else scalar(most)
    return (low, high) if low is not None and high is not None and low <= 0 <= high else None


def _activations(node: ir.Node) -> tuple[ir.Value, ...]:
    if node.op_type in ("Add", "Mul", "Concat"):
        return tuple(dict.fromkeys(v for v in node.inputs if v is not None))
    return tuple(v for v in node.inputs[:1] if v is not None)


def _follows(node: ir.Node, ready: set[ir.Value]) -> bool:
    """Whether a node without weights can stay in 8 bits: all it reads is, and it has an integer kernel."""
    if node.domain not in ("", "ai.onnx") or len(node.outputs) != 1 or node.op_type not in JOINS + MOVES:
        return False
    if node.op_type == "ReduceMean" and not spatial_mean(node):
        return False
    return all(v in ready for v in _activations(node))


def _wanted(graph: ir.Graph, eligible: set[ir.Node]) -> set[ir.Value]:
    """Values that reach an 8-bit weighted node through nodes that can stay in 8 bits."""
    wanted: set[ir.Value] = set()
    for node in reversed(graph):
        through = node.op_type in JOINS + MOVES + CLIPS and any(v in wanted for v in node.outputs)
        if node in eligible or through:
            wanted.update(_activations(node))
    return wanted
