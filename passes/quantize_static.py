"""Static 8-bit quantization in QDQ form, for convolutional nets.

    y = W x + b   becomes   Q(W' x' + b'),  x' = DQ(Q(x)),  W' = DQ(int8),  b' = DQ(int32)

Activations have one scale and zero point each, from calibrated ranges. Weights are symmetric int8 with one
scale for each output; a bias is int32 at ``x_scale * w_scale``, the unit in which products are summed.
ONNX Runtime fuses each DQ-op-Q unit into one integer kernel when it loads the file.

Rounding a weight by ``e`` shifts what it computes by ``e E[x]`` on average, the same way for every example. The bias
makes up for that (Nagel et al., 2019, "Data-free quantization through weight equalization and bias correction"); the
mean of x is taken over calibration data, and the zeros that pad a convolution are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from dlc.calibrate import Range
from dlc.errors import Unsupported
from dlc.passes.base import Pass, Rewritten, Site, all_nodes, constant, rewritten
from dlc.passes.emit import drop_unused
from dlc.passes.keep_float import keep_float
from dlc.passes.qdq import WEIGHT_MAX, ActivationType, Affine, Writer, quantize_weight, weight_scales
from dlc.passes.quantize_units import Plan, Unit, plan, weight_axis
from dlc.passes.round_weights import Moments
from dlc.passes.weighted import label, weighted_nodes, weights_of
from dlc.types import Array, Floats

NESTED = "inside a subgraph, where nothing is calibrated"
UNBOUNDED = (-np.inf, np.inf)
ALIGNMENT = 4
"""Input channels that ONNX Runtime's direct 8-bit convolution sums at a time; others go through im2col."""


def tensors_to_calibrate(model: ir.Model, exclude: Sequence[str] = ()) -> list[str]:
    """Names of the values whose ranges :class:`QuantizeStatic` needs."""
    return [str(v.name) for v in plan(model, _excluded(model, exclude)).measured]


def channels_to_average(model: ir.Model, exclude: Sequence[str] = ()) -> dict[str, int]:
    """Names of the values whose channels' means correct biases, each with the axis that counts the channels."""
    units = [u for u in plan(model, _excluded(model, exclude)).units if weights_of(u.node)]
    return {str(u.inputs[0].name): 1 if u.node.op_type == "Conv" else -1 for u in units}


@dataclass(frozen=True)
class QuantizeStatic(Pass):
    """Quantize Conv, Gemm and MatMul with constant weights, and what lies between them.

    ``reduce_range``: keep pairs of products within 16 bits, for targets without an integer dot product.
    ``symmetric``: zero points of int8 activations are 0, but for outputs that absorb a ReLU or Clip: their saturation
    takes its place, which needs the lowest level for a range from 0. ``absorb_clips`` off: those stay nodes.
    ``align_channels``: pad the input channels of a dense KxK convolution to a multiple of 4, which selects a kernel
    without im2col. ``correct_bias``: let biases make up for rounded weights, where ``means`` has the mean of each
    channel of what the node reads, [C]. ``learn_rounding``: round weights so that the outputs come out right, where
    ``moments`` has those of what the node reads, by label; not where products are summed in pairs, whose bound holds
    for rounding to nearest. ``exclude``: labels of nodes that stay in float. ``method``: how the ranges were chosen,
    for the record.
    """

    name: ClassVar[str] = "quantize-static"
    changes_numbers: ClassVar[bool] = True
    ranges: Mapping[str, Range] = field(repr=False)
    reduce_range: bool = True
    activation_dtype: ActivationType = "uint8"
    symmetric: bool = False
    absorb_clips: bool = True
    align_channels: bool = True
    correct_bias: bool = False
    means: Mapping[str, Floats] = field(default_factory=dict, repr=False)
    learn_rounding: bool = False
    moments: Mapping[str, Moments] = field(default_factory=dict, repr=False)
    exclude: tuple[str, ...] = ()
    method: str = ""
    notes: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.symmetric and self.activation_dtype != "int8":
            raise Unsupported(
                f"symmetric activations need int8, whose zero is in the middle, not {self.activation_dtype}"
            )

    def call(self, model: ir.Model) -> Rewritten:
        """Rewrite in place; one site for each weighted node, and one for each other node that became 8 bit."""
        if model.opset_imports.get("", 0) < 13:
            raise Unsupported(
                f"opset {model.opset_imports.get('')} has no per-channel QuantizeLinear: convert to >= 13"
            )
        chosen = self._plan(model)
        sites = self._sites(model, chosen)
        weights = [v for unit in chosen.units for v in _initializers(unit)]
        _Rewriter(self, Writer(model.graph)).rewrite(chosen)
        keep_float(model.graph)
        drop_unused(model.graph, weights)
        return rewritten(model, sites)

    def _plan(self, model: ir.Model) -> Plan:
        """Plan again without the nodes that lack a range, until none does."""
        refused = _excluded(model, self.exclude)
        while True:
            chosen = plan(model, refused)
            lacking = {v for v in chosen.measured if v.name not in self.ranges}
            if not lacking:
                return chosen
            for unit in chosen.units:
                if missing := [v for v in (*unit.inputs, unit.output) if v in lacking]:
                    refused[unit.node] = f"no calibrated range of {missing[0].name!r}"

    def _sites(self, model: ir.Model, chosen: Plan) -> list[Site]:
        units, weighted = {unit.node for unit in chosen.units}, set(weighted_nodes(model.graph))
        return [
            Site(
                self.name, label(node), node.op_type, chosen.refused.get(node) if node.graph is model.graph else NESTED
            )
            for node in all_nodes(model.graph)
            if node in units or node in weighted
        ]


def _initializers(unit: Unit) -> list[ir.Value]:
    nodes = (unit.node, *([unit.clip] if unit.clip else []))
    return [v for node in nodes for v in node.inputs if v is not None and v.is_initializer()]


def _excluded(model: ir.Model, names: Sequence[str]) -> dict[ir.Node, str]:
    return {node: "excluded" for node in model.graph if label(node) in names}


@dataclass(frozen=True)
class _Rewriter:
    options: QuantizeStatic
    writer: Writer
    affine: dict[ir.Value, Affine] = field(default_factory=dict)

    def rewrite(self, chosen: Plan) -> None:
        for value in chosen.measured:
            self.affine[value] = self._covering(value, UNBOUNDED)
        for unit in chosen.units:
            if unit.quantized:
                kept = self.affine[unit.inputs[0]] if unit.moves else None
                self.affine[unit.output] = kept or self._covering(unit.output, unit.bounds)
            self._rewrite(unit)

    def _covering(self, value: ir.Value, bounds: tuple[float, float]) -> Affine:
        seen, o = self.options.ranges[str(value.name)], self.options
        absorbed = o.absorb_clips and bounds != UNBOUNDED
        return Affine.covering(
            max(seen.low, bounds[0]), min(seen.high, bounds[1]), o.activation_dtype,
            symmetric=o.symmetric and not absorbed,
        )  # fmt: skip

    def _rewrite(self, unit: Unit) -> None:
        node = unit.node
        for i, value in enumerate(node.inputs):
            if value is not None and value in unit.inputs:  # not yet the image that an earlier unit wrote
                node.replace_input_with(i, self.writer.read(value, self.affine[value], node))
        if weights_of(node):
            self._weights(unit)
        elif node.op_type == "ReduceMean":
            node.op_type = "GlobalAveragePool"
            node.attributes.clear()
            node.resize_inputs(1)
        if unit.quantized:
            kept = unit.clip is not None and not self.options.absorb_clips
            self.writer.write(unit.clip if kept and unit.clip else node, unit.output, self.affine[unit.output])
            if unit.clip is not None and not kept:
                unit.clip.graph.remove(unit.clip, safe=True)  # type: ignore[union-attr]

    def _weights(self, unit: Unit) -> None:
        """Make weight [M, C, *k] int8 and bias [M] int32."""
        node, read, x = unit.node, str(unit.inputs[0].name), self.affine[unit.inputs[0]]
        weight_value, axis = node.inputs[1], weight_axis(node)
        assert weight_value is not None
        bias_value = node.inputs[2] if len(node.inputs) > 2 else None
        weight, bias = np.moveaxis(_array(weight_value), axis, 0), None if bias_value is None else _array(bias_value)
        pairs = self.options.reduce_range and not _is_depthwise(node, weight)
        extra = _missing_channels(node, weight) if self.options.align_channels else 0
        widths = [(0, extra if i == 1 else 0) for i in range(weight.ndim)]
        scales = weight_scales(np.pad(weight, widths), pairs=pairs, bias=bias, x_scale=x.scale)
        rounded = self._rounded(node, weight, scales, pairs=pairs, biased=bias is not None)
        if extra:
            self.writer.pad_channels(node, extra)
        levels = np.moveaxis(np.pad(rounded, widths), 0, axis)
        node.replace_input_with(1, self.writer.constant(str(weight_value.name), levels, scales, axis, node))
        if bias_value is not None and bias is not None:
            units = x.scale * scales
            if self.options.correct_bias and (mean := self.options.means.get(read)) is not None:
                steps = scales.reshape(-1, *[1] * (weight.ndim - 1)).astype(np.float64)
                bias = bias - mean_shift(rounded * steps - weight, mean, _group(node))
            levels = np.rint(bias / units.astype(np.float64)).astype(np.int32)
            node.replace_input_with(2, self.writer.constant(str(bias_value.name), levels, units, 0, node))

    def _rounded(self, node: ir.Node, weight: Array, scales: Array, *, pairs: bool, biased: bool) -> Array:
        """Levels of a weight [M, C/g, *k]; a bias that is corrected takes the mean error, so the rest counts."""
        seen = self.options.moments.get(label(node)) if self.options.learn_rounding and not pairs else None
        if seen is None:
            return quantize_weight(weight, scales)
        groups = _group(node)
        grouped = weight.reshape(groups, len(weight) // groups, -1)
        centred = biased and self.options.correct_bias
        return seen.round(grouped, scales.reshape(groups, -1), WEIGHT_MAX, centred=centred).reshape(weight.shape)


def mean_shift(error: Floats, mean: Floats, groups: int) -> Floats:
    """Return what an error of the weights [M, C/g, *k] adds to each output on average, [M], at input means [C]."""
    taps = error.reshape(*error.shape[:2], -1).sum(axis=-1)  # [M, C/g]
    seen = np.repeat(mean.reshape(groups, -1), len(taps) // groups, axis=0)  # [M, C/g]
    shift: Floats = (taps * seen).sum(axis=1)
    return shift


def _array(value: ir.Value) -> Array:
    array = constant(value)
    assert array is not None, value.name
    return array


def _is_depthwise(node: ir.Node, weight: Array) -> bool:
    """Whether each filter sees one channel: those products are summed in 32 bits on every x86 processor."""
    return node.op_type == "Conv" and weight.shape[1] == 1 and _group(node) == weight.shape[0]


def _missing_channels(node: ir.Node, weight: Array) -> int:
    """Input channels to add so that a convolution uses the direct kernel; 0 where it does, or cannot."""
    outputs, channels, *kernel = weight.shape
    if node.op_type != "Conv" or _group(node) != 1 or np.prod(kernel) == 1 or outputs % 8 or outputs < 16:
        return 0
    return int(-channels % ALIGNMENT)


def _group(node: ir.Node) -> int:
    group = node.attributes.get("group")
    return 1 if group is None else int(group.as_int())
