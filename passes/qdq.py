"""8-bit numbers, and the QuantizeLinear and DequantizeLinear nodes that carry them.

x = scale * (q - zero_point),  q = saturate(round(x / scale) + zero_point)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dlc.passes.emit import Emitter
from dlc.types import Array

ActivationType: TypeAlias = Literal["uint8", "int8"]
WEIGHT_MAX = 127
"""Weights are symmetric: -127..127, zero point 0."""
BIAS_MAX = 1 << 30
"""Largest bias in units of its scale; half of int32, the other half is for the products."""


@dataclass(frozen=True, slots=True)
class Affine:
    """Scale and zero point of one activation."""

    scale: np.float32
    zero_point: int
    dtype: ActivationType

    @classmethod
    def covering(cls, low: float, high: float, dtype: ActivationType, *, symmetric: bool = False) -> Affine:
        """Spread 256 levels over ``low..high``; zero is always a level, as padding and ReLU need it to be exact.

        ``symmetric``: levels ``-127..127`` over as far as either end reaches, zero point 0; for int8.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        info = np.iinfo(dtype)
        if symmetric:
            reach = np.float32(max(-low, high) / info.max)
            return cls(reach if reach >= np.finfo(np.float32).tiny else np.float32(1), 0, dtype)
        scale = np.float32((high - low) / (info.max - info.min))
        if scale < np.finfo(np.float32).tiny:  # the activation is always zero
            return cls(np.float32(1), 0, dtype)
        return cls(scale, int(np.clip(round(info.min - low / float(scale)), info.min, info.max)), dtype)


def k_order(weight: Array) -> Array:
    """Weights of each output in the order in which x86 kernels sum products: taps, then input channels; [M, K]."""
    return np.moveaxis(weight, 1, -1).reshape(weight.shape[0], -1)


def weight_scales(weight: Array, *, pairs: bool, bias: Array | None, x_scale: np.float32) -> npt.NDArray[np.float32]:
    """Scales of symmetric int8 weights, one for each output, [M]; ``weight`` is [M, C, *k].

    ``pairs``: without an integer dot product, x86 adds two neighbouring products u8 * s8 in 16 bits, saturating
    (``vpmaddubsw``). ``u <= 255``, so nothing saturates if the positive parts of a pair sum to at most 128, and the
    negative ones to at least -128; the scale makes that 127, and rounding adds at most 1/2 each. This is never coarser
    than 7-bit weights, which have the same purpose, and for a lone large weight it is as fine as 8 bits.

    Channels whose weights are tiny beside their bias get the scale at which the bias fits.
    """
    rows = k_order(weight).astype(np.float64)
    largest = np.abs(rows).max(axis=1)
    if pairs:
        even = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(len(rows), -1, 2)  # [M, K/2, 2]
        largest = np.maximum(np.maximum(even, 0).sum(-1), np.maximum(-even, 0).sum(-1)).max(axis=1)
    scales = largest / WEIGHT_MAX
    if bias is not None:
        scales = np.maximum(scales, np.abs(bias.astype(np.float64)) / (float(x_scale) * BIAS_MAX))
    tiny = float(np.finfo(np.float32).tiny)
    return np.where(scales < tiny, 1.0, scales).astype(np.float32)


def quantize_weight(weight: Array, scales: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    """Round weights [M, ...] to their scales [M]."""
    levels = np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1)))
    return np.clip(levels, -WEIGHT_MAX, WEIGHT_MAX).astype(np.int8)


class Writer:
    """Adds QuantizeLinear and DequantizeLinear nodes to a graph, once for each value."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._emit = Emitter(graph)
        self._parameters: dict[Affine, tuple[ir.Value, ir.Value]] = {}
        self._images: dict[ir.Value, ir.Value] = {}

    def read(self, value: ir.Value, affine: Affine, before: ir.Node) -> ir.Value:
        """Dequantized image of a float value; quantized in front of ``before``, the first node that reads it."""
        if value not in self._images:
            pair = self._pair(value, affine, str(value.name))
            self.graph.insert_before(before, pair)
            self._images[value] = pair[1].outputs[0]
        return self._images[value]

    def write(self, node: ir.Node, output: ir.Value, affine: Affine) -> None:
        """Quantize what ``node`` writes; whatever reads ``output``, its own or its activation's, reads the image."""
        users, name, result = tuple(output.uses()), str(output.name), node.outputs[0]
        pair = self._pair(result, affine, name)
        image = pair[1].outputs[0]
        image.type, image.shape = output.type, output.shape
        self.graph.insert_after(node, pair)
        for user, index in users:
            user.replace_input_with(index, image)
        if output.is_graph_output():
            output.name = self._emit.fresh(f"{name}_float")
            image.name = name
            for i, promised in enumerate(self.graph.outputs):
                if promised is output:
                    self.graph.outputs[i] = image

    def constant(
        self, name: str, levels: Array, scales: npt.NDArray[np.float32], axis: int, before: ir.Node
    ) -> ir.Value:
        """Write int8 weights or an int32 bias, with a scale for each index of ``axis``, and its DequantizeLinear."""
        stored = self._emit.constant(f"{name}_quantized", levels)
        inputs = [stored, self._emit.constant(f"{name}_scale", scales)]
        if levels.dtype == np.int8:  # ONNX Runtime fuses no Gemm whose weight has an implied zero point
            inputs.append(self._emit.constant(f"{name}_zero_point", np.zeros(scales.shape, np.int8)))
        node = self._emit.node(
            "DequantizeLinear", inputs, f"{name}_dequantized",
            dtype=ir.DataType.FLOAT, shape=levels.shape, attributes={"axis": axis},
        )  # fmt: skip
        self.graph.insert_before(before, node)
        return node.outputs[0]

    def pad_channels(self, node: ir.Node, extra: int) -> None:
        """Append zero channels to the 8-bit image that ``node`` reads as its first input."""
        image = node.inputs[0]
        assert image is not None
        dequantize = image.producer()
        assert dequantize is not None
        quantized, *parameters = dequantize.inputs
        assert quantized is not None
        assert quantized.shape is not None
        name, shape = str(quantized.name), _widened(quantized.shape, extra)
        pads = np.array([0] * (len(shape) + 1) + [extra] + [0] * (len(shape) - 2), np.int64)
        amounts = self._emit.constant(f"{name}_pads", pads)
        pad = self._emit.node(
            "Pad", [quantized, amounts, parameters[1]], f"{name}_padded", dtype=quantized.dtype, shape=shape
        )
        wide = self._emit.node(
            "DequantizeLinear", [pad.outputs[0], *parameters], f"{image.name}_padded", dtype=image.dtype, shape=shape
        )
        self.graph.insert_before(node, (pad, wide))
        node.replace_input_with(0, wide.outputs[0])
        if not image.uses() and not image.is_graph_output():
            self.graph.remove(dequantize, safe=True)

    def _pair(self, value: ir.Value, affine: Affine, name: str) -> tuple[ir.Node, ir.Node]:
        if affine not in self._parameters:
            self._parameters[affine] = (
                self._emit.constant(f"{name}_scale", np.array(affine.scale, np.float32)),
                self._emit.constant(f"{name}_zero_point", np.array(affine.zero_point, affine.dtype)),
            )
        scale, zero = self._parameters[affine]
        quantize = self._emit.node(
            "QuantizeLinear", [value, scale, zero], f"{name}_quantized", dtype=zero.dtype, shape=value.shape
        )
        dequantize = self._emit.node(
            "DequantizeLinear", [*quantize.outputs, scale, zero], f"{name}_dequantized",
            dtype=value.dtype, shape=value.shape,
        )  # fmt: skip
        return quantize, dequantize


def _widened(shape: ir.Shape, extra: int) -> ir.Shape:
    return ir.Shape([d + extra if i == 1 and isinstance(d, int) else d for i, d in enumerate(shape)])
