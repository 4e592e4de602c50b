"""Which value of a second graph is which of a first, and which stored number is which weight: by name.

A pass keeps the name of what it computes in another way, and adds a suffix to what it rounds. All suffixes that dlc and
onnxruntime.quantization write are here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx_ir as ir

from dlc.passes.base import all_nodes, constant
from dlc.passes.blockwise import Blocks
from dlc.passes.weighted import weights_of
from dlc.types import Array

ROUNDED = ("_dequantized", "_DequantizeLinear_Output", "_rounded")
"""Suffixes of a value as its readers see it: dlc's static quantization, onnxruntime.quantization's, emulated BF16."""
NARROW = ("_quantized", ".quantized", "_q8", "_q4", "_fp16", "_bf16")
"""Suffixes of a stored weight: 8-bit weights, static and dynamic, block-wise ones, halves."""
UNPACKED = ("_dequantized", "_DequantizeLinear_Output", "_fp32", "_reshape", "_slice", "_mul")
"""Suffixes of a weight that nodes compute from what is stored, the last of a chain first."""

OPERANDS = {  # operator: its weight, the weight's scale, its zero point, by input
    "DynamicQuantizeMatMul": (1, 2, 3), "MatMulInteger": (1, None, 3), "MatMulIntegerToFloat": (1, 3, 5),
    "ConvInteger": (1, None, 3), "QLinearConv": (3, 4, 5), "QLinearMatMul": (3, 4, 5), "QGemm": (3, 4, 5),
    "MatMulNBits": (1, 2, 3), "GatherBlockQuantized": (0, 2, 3), "Gather": (0, None, None),
}  # fmt: skip


def twin(name: str, there: Collection[str]) -> str | None:
    """Return the name under which another graph has a value, rounded if it rounds it; None if it has none."""
    return next((n for n in (*(f"{name}{suffix}" for suffix in ROUNDED), name) if n in there), None)


def unpacked(weight: str, computed: Collection[str]) -> str | None:
    """Return the name of the value that nodes compute from a stored weight; None if there is none."""
    return next((n for suffix in UNPACKED if (n := f"{weight}{suffix}") in computed), None)


def stem(name: str) -> str:
    """Return the weight's own name of something stored in its place."""
    return next((name.removesuffix(s) for s in NARROW if name.endswith(s)), name)


@dataclass(frozen=True, slots=True)
class Stored:
    """A weight as a graph stores it; ``read`` dequantizes it, in the layout of the node that reads it."""

    name: str
    node: ir.Node
    read: Callable[[], Array] = field(repr=False)


def stored(model: ir.Model) -> dict[str, Stored]:
    """Return the weights that nodes read as they are stored, in float or quantized, by the name they had in float."""
    found: dict[str, Stored] = {}
    for node in all_nodes(model.graph):
        for name, read in _weights(node, model.graph.initializers):
            found.setdefault(stem(name), Stored(name, node, read))
    return found


def _weights(node: ir.Node, initializers: Mapping[str, ir.Value]) -> Iterator[tuple[str, Callable[[], Array]]]:
    if node.op_type in OPERANDS:
        at, scale_at, zero_at = OPERANDS[node.op_type]
        weight = node.inputs[at] if at < len(node.inputs) else None
        if weight is not None and weight.is_initializer() and _is_integer(weight):
            scale = _input(node, scale_at) or _scale_of(str(weight.name), initializers)
            if scale is not None:
                yield str(weight.name), lambda: _dequantized(node, weight, scale, _input(node, zero_at))
            return
    for value in weights_of(node).values():
        assert value.const_value is not None
        yield str(value.name), partial(_read_once, value.const_value)


def _read_once(tensor: ir.TensorProtocol) -> Array:
    """Read a tensor that may lie in a file; it does not keep mapped what was read."""
    return copy(tensor).numpy()


def _input(node: ir.Node, at: int | None) -> ir.Value | None:
    return node.inputs[at] if at is not None and at < len(node.inputs) else None


def _scale_of(weight: str, initializers: Mapping[str, ir.Value]) -> ir.Value | None:
    return next((s for sign in "._" if (s := initializers.get(f"{stem(weight)}{sign}scale")) is not None), None)


def _is_integer(value: ir.Value) -> bool:
    return value.const_value is not None and value.const_value.dtype.is_integer()


def _dequantized(node: ir.Node, weight: ir.Value, scale: ir.Value, zero: ir.Value | None) -> Array:
    q, s = constant(weight), constant(scale)
    assert q is not None
    if s is None:
        return np.empty(0, np.float32)
    z = constant(zero)
    if node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
        return _blocks(node, q, s, z)
    axis = 0 if node.op_type in ("QLinearConv", "ConvInteger") or node.attributes.get_int("transB", 0) == 1 else -1
    wide = q.astype(np.float32)
    return np.asarray((wide - (0 if z is None else _along(z, axis, q.ndim))) * _along(s, axis, q.ndim))


def _along(parameter: Array, axis: int, rank: int) -> Array:
    """Shape scales or zero points so that they broadcast along an axis; a scalar, and one of full rank, does."""
    if parameter.ndim != 1:
        return parameter
    return parameter.reshape([-1 if i == axis % rank else 1 for i in range(rank)]).astype(np.float32)


def _blocks(node: ir.Node, packed: Array, scale: Array, zero: Array | None) -> Array:
    """Return [N, K], of [N, blocks, block * bits / 8] or [N, K * bits / 8]."""
    bits, block = node.attributes.get_int("bits", 4), node.attributes.get_int("block_size", 128)
    rows = len(packed)
    scale = scale.reshape(rows, -1)
    q = _nibbles(packed.reshape(rows, -1), bits).reshape(rows, scale.shape[1], block)
    z = None if zero is None else _nibbles(zero.reshape(rows, -1), bits)[:, : scale.shape[1]]
    k = node.attributes.get_int("K", q.shape[1] * block)
    return Blocks(bits, q, scale.astype(np.float32), z).dequantize()[:, :k]


def _nibbles(packed: Array, bits: int) -> Array:
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)
