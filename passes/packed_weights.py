"""Packed weights of MatMulNBits and GatherBlockQuantized, each stored once.

    GatherBlockQuantized    data: [V, D * bits / 8]               scales: [V, D / block]
    MatMulNBits             B: [N, blocks, block * bits / 8]      scales: [N, blocks]

The bytes are the same. A table that a product reads too, as language models do that tie them, is stored as the first,
and a Reshape, which the runtime folds when it loads the model, gives the product its form. The exporter, or a rewrite
before, may have left the product a transposed copy of its own: tables are known by their numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from dlc.passes.blockwise import Blocks, pack
from dlc.passes.emit import Emitter
from dlc.types import Array


@dataclass(frozen=True, slots=True)
class Packed:
    """Operands of a quantized node. ``zero`` None: symmetric."""

    bits: int
    data: ir.Value
    scale: ir.Value
    zero: ir.Value | None


class Packer:
    """Registers packed weights of one graph; ``use`` tells apart several readings of a weight."""

    def __init__(self, emit: Emitter) -> None:
        self.emit = emit
        self._packed: dict[tuple[ir.Value, str], Packed] = {}
        self._tables: list[tuple[Array, Packed]] = []

    def table(self, weight: ir.Value, quantize: Callable[[Array], Blocks]) -> Packed:
        """Return a table [V, D] for GatherBlockQuantized."""
        key = (weight, "rows")
        if key not in self._packed:
            array = _array(weight)
            blocks = quantize(array)
            data = pack(blocks.q, blocks.bits)
            self._packed[key] = self._store(weight, blocks, data.reshape(len(data), -1))
            self._tables.append((array, self._packed[key]))
        return self._packed[key]

    def columns(
        self, weight: ir.Value, use: str, matrix: Callable[[Array], Array], quantize: Callable[[Array], Blocks],
        before: ir.Node,
    ) -> Packed:  # fmt: skip
        """Return a weight, as the [N, K] that ``matrix`` makes of it, for MatMulNBits; ``before``: its first reader."""
        key = (weight, use)
        if key not in self._packed:
            w = matrix(_array(weight))
            tied = next((packed for table, packed in self._tables if np.array_equal(table, w)), None)
            if tied is not None:
                self._packed[key] = replace(tied, data=self._in_blocks(tied, before))
            else:
                blocks = quantize(w)
                self._packed[key] = self._store(weight, blocks, pack(blocks.q, blocks.bits))
        return self._packed[key]

    def _store(self, weight: ir.Value, blocks: Blocks, data: Array) -> Packed:
        name, bits, zero = weight.name, blocks.bits, blocks.zero
        return Packed(
            bits,
            self.emit.constant(f"{name}_q{bits}", data),
            self.emit.constant(f"{name}_scale", blocks.scale),
            None if zero is None else self.emit.constant(f"{name}_zero", pack(zero, bits)),
        )

    def _in_blocks(self, table: Packed, before: ir.Node) -> ir.Value:
        rows, blocks = _array(table.scale).shape
        shape = (rows, blocks, _array(table.data).shape[1] // blocks)
        target = self.emit.constant(f"{table.data.name}_shape", np.array(shape))
        name = f"{table.data.name}_blocks"
        view = self.emit.node("Reshape", [table.data, target], name, dtype=table.data.dtype, shape=shape)
        self.emit.graph.insert_before(before, view)
        return view.outputs[0]


def _array(weight: ir.Value) -> Array:
    assert weight.const_value is not None
    return weight.const_value.numpy()
