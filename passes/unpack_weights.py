"""Weights stored in 4 or 8 bits and unpacked by standard operators, which a runtime folds when it loads the model.

    4 bits   w = reshape(nibbles[packed] * scale)     nibbles: [256, 2], the two values that a byte holds
    8 bits   w = reshape(cast(packed) * scale)

DequantizeLinear is not used: ONNX Runtime leaves it out of constant folding, and a convolution whose weight is computed
in each run is many times slower.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from dlc.passes.blockwise import Blocks, pack
from dlc.passes.emit import Emitter
from dlc.types import Array

LEADING = {"Conv": 1, "ConvTranspose": 1}
"""Operator to the number of leading axes that are rows; blocks run along the rest. Others: along the last axis."""
FLOAT = ir.DataType.FLOAT


class Unpacker:
    """Emits unpacking nodes into one graph; each weight is unpacked once, before the first node that reads it."""

    def __init__(self, emit: Emitter, quantize: Callable[[Array, int, int], Blocks], block_size: int) -> None:
        self.emit = emit
        self.quantize = quantize
        self.block_size = block_size
        self._unpacked: dict[ir.Value, ir.Value] = {}
        self._shared: dict[str, ir.Value] = {}

    def unpack(self, weight: ir.Value, node: ir.Node, bits: int) -> ir.Value:
        """Return the unpacked weight, emitting its nodes before ``node`` if this is its first reader."""
        if weight not in self._unpacked:
            self._unpacked[weight] = self._emit(weight, node, bits)
        return self._unpacked[weight]

    def _emit(self, weight: ir.Value, node: ir.Node, bits: int) -> ir.Value:
        """Stored: [rows, blocks, block * bits / 8]; scale and zero: [rows, blocks, 1, 1]."""
        assert weight.const_value is not None
        array = weight.const_value.numpy()
        rows = int(np.prod(array.shape[: LEADING.get(node.op_type, array.ndim - 1)]))
        k = array.size // rows
        blocks = self.quantize(array.reshape(rows, k), min(self.block_size, k + k % 2), bits)
        chain = _Chain(self.emit, str(weight.name))
        w = chain.levels(blocks, self._nibbles(blocks))
        scale = self.emit.constant(f"{weight.name}_scale", blocks.scale[..., None, None])
        w = chain.add("Mul", [w, scale], w.shape)
        if (padded := blocks.q[0].size) != k:
            flat = self.emit.constant(f"{weight.name}_flat", np.array([rows, padded]))
            w = chain.add("Reshape", [w, flat], (rows, padded))
            w = chain.add("Slice", [w, self._int(0), self._int(k), self._int(1)], (rows, k))
        shape = self.emit.constant(f"{weight.name}_shape", np.array(array.shape))
        w = chain.add("Reshape", [w, shape], array.shape)
        self.emit.graph.insert_before(node, chain.nodes)
        return w

    def _nibbles(self, blocks: Blocks) -> ir.Value | None:
        """[256, 2]: what the low and the high nibble of each byte stand for."""
        if blocks.bits == 8:
            return None
        byte = np.arange(256, dtype=np.float32)
        table = np.stack([byte % 16, byte // 16], axis=1) - np.float32(8 if blocks.zero is None else 0)
        return self._share("nibbles", table)

    def _int(self, value: int) -> ir.Value:
        return self._share(f"int_{value}", np.array([value]))

    def _share(self, name: str, array: Array) -> ir.Value:
        if name not in self._shared:
            self._shared[name] = self.emit.constant(name, array)
        return self._shared[name]


class _Chain:
    """Nodes that unpack one weight, in order."""

    def __init__(self, emit: Emitter, name: str) -> None:
        self.emit = emit
        self.name = name
        self.nodes: list[ir.Node] = []

    def add(
        self, op: str, inputs: list[ir.Value], shape: ir.Shape | tuple[int, ...] | None, to: ir.DataType | None = None
    ) -> ir.Value:
        """Append a node; ``to``: what a Cast casts to."""
        attributes = {} if to is None else {"to": int(to)}
        name = f"{self.name}_{op.lower()}"
        self.nodes.append(self.emit.node(op, inputs, name, dtype=to or FLOAT, shape=shape, attributes=attributes))
        return self.nodes[-1].outputs[0]

    def levels(self, blocks: Blocks, nibbles: ir.Value | None) -> ir.Value:
        """Return q - zero, as FLOAT [rows, blocks, block / 2, 2] or [rows, blocks, block, 1]."""
        name, q = f"{self.name}_q{blocks.bits}", blocks.q
        if nibbles is not None:
            stored = self.emit.constant(name, pack(q, 4))
            index = self.add("Cast", [stored], stored.shape, ir.DataType.INT32)
            w = self.add("Gather", [nibbles, index], (*q.shape[:2], q.shape[2] // 2, 2))
        else:
            signed = (q ^ 0x80).view(np.int8) if blocks.zero is None else q
            stored = self.emit.constant(name, signed[..., None])
            w = self.add("Cast", [stored], stored.shape, FLOAT)
        if blocks.zero is None:
            return w
        stored = self.emit.constant(f"{self.name}_zero", blocks.zero[..., None, None])
        zero = self.add("Cast", [stored], stored.shape, FLOAT)
        return self.add("Sub", [w, zero], w.shape)
