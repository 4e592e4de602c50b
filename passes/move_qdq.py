"""Quantization moves across operators that only move data, so that whole units DQ-op-Q stand together.

    move(DQ(q, s, z))  =  DQ(move(q), s, z)
    Q(move(x), s, z)   =  move(Q(x, s, z))
    Q(DQ(q, s, z), s, z)  =  q

QuantizeLinear-10, DequantizeLinear-10, one scale and zero point a tensor: both work element by element, so they may
stand on either side of what only moves elements, bit by bit, NaN included. So may a DQ with MaxPool: with s > 0 it
keeps the order. Q does not pass a MaxPool: which element that takes beside a NaN is open.

The pair: float(q - z) * s errs by at most eps/2 relative, its quotient by s once more: together below 255 * eps, far
less than half a level, so that rounding gives q - z again. That holds as long as s is normal and 255 * s finite.

At load ONNX Runtime 1.32 itself moves pairs across Transpose, Reshape, Slice, Squeeze, Unsqueeze and MaxPool, and gives
each reader of a DQ one of its own; not across Concat, Split, Expand, Gather, Tile, DepthToSpace: there the operator
behind stays in float. A product of 128x384 by 384x384 behind a Concat takes 0.20 of the time once it reads one DQ (ONNX
Runtime 1.32, AVX512-VNNI, one thread). In the file, the moves are made for every operator.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant, only_user
from dlc.passes.edit import Edit
from dlc.passes.rewrite import Rewrite

MOVES = frozenset((
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape",
    "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
))  # fmt: skip
"""Operators whose outputs hold elements of their first input, or of all in the case of Concat, and nothing else."""
POOL = 12
"""First opset whose MaxPool takes 8-bit numbers."""
BYTES = (ir.DataType.UINT8, ir.DataType.INT8)


@dataclass(frozen=True)
class MoveQdq(Rewrite):
    """A DQ moves behind the data movement it leads into, a Q before that which leads into it; Q after DQ vanishes.

    Not applied if scale and zero point are not one constant each, if operands of a Concat differ in them, if a value
    before a Q has another reader or is a graph output, if a weight is dequantized, or in other types than FLOAT and 8
    bits. Sites are the moves that read a DQ, and each Q behind a move or a DQ.
    """

    name: ClassVar[str] = "move-qdq"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return the moves that read a DQ, and each Q behind a move or a DQ."""
        return (n for n in graph if _behind_dequantize(n) or _is(n, "QuantizeLinear"))

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Move what stands at one node."""
        if _is(node, "QuantizeLinear"):
            return _cancel(node, edit) if _producer(node, "DequantizeLinear") else _hoist(node, edit)
        return _sink(node, edit)


@dataclass(frozen=True, slots=True)
class _Levels:
    """Scale and zero point of 8-bit numbers."""

    scale: float
    zero: int
    dtype: ir.DataType


def _levels(node: ir.Node) -> _Levels | str:
    """Return what a Q or a DQ reads, if it is one constant each."""
    scale, given = constant(node.inputs[1]), node.inputs[2] if len(node.inputs) > 2 else None
    zero = np.zeros(()) if given is None else constant(given)
    if scale is None or zero is None or scale.ndim or zero.ndim:
        return "scale and zero point are not one constant each"
    dtype = _implied(node) if given is None else given.dtype
    if scale.dtype != np.float32 or dtype not in BYTES:
        return "not between FLOAT and 8 bits"
    tiny, largest = np.finfo(np.float32).tiny, np.finfo(np.float32).max
    if not tiny <= float(scale) <= float(largest) / 255:
        return "the scale is so small or so large that levels are not exact"
    return _Levels(float(scale), int(zero), dtype)


def _implied(node: ir.Node) -> ir.DataType | None:
    """Return the 8-bit type of a Q or DQ without a zero point."""
    if node.op_type == "QuantizeLinear":
        return ir.DataType(node.attributes.get_int("output_dtype", 0) or ir.DataType.UINT8)
    return node.inputs[0].dtype if node.inputs[0] is not None else None


def _like(node: ir.Node, x: ir.Value, name: str, y: ir.Value, edit: Edit) -> ir.Node:
    """Return a Q or DQ of another value, with the scale and zero point of ``node``; the result is typed as ``y`` is."""
    new = edit.node(node.op_type, [x, *node.inputs[1:]], name, dtype=y.dtype, shape=x.shape)
    new.attributes.update({k: a for k, a in node.attributes.items() if k != "axis"})  # one scale has none
    return new


def _cancel(quantize: ir.Node, edit: Edit) -> str | None:
    """Remove a Q that reads a DQ of the same levels."""
    dequantize = _producer(quantize, "DequantizeLinear")
    assert dequantize is not None
    ours, theirs = _levels(quantize), _levels(dequantize)
    if isinstance(ours, str):
        return ours
    if isinstance(theirs, str):
        return theirs
    if ours != theirs:
        return "dequantized from another scale or zero point"
    q = dequantize.inputs[0]
    assert q is not None
    y = quantize.outputs[0]
    edit.context(*_readers(y, edit))
    if not edit.bypass(quantize, q):
        copy = edit.node("Identity", [q], f"{y.name}.copy", dtype=q.dtype, shape=y.shape)
        edit.replace(quantize, copy)
    return None


def _hoist(quantize: ir.Node, edit: Edit) -> str | None:
    """Quantize before the moves that lead into a Q."""
    moves: list[ir.Node] = []
    x = quantize.inputs[0]
    assert x is not None
    while (node := x.producer()) is not None and _moves(node) and len(node.outputs) == 1 and node.op_type != "Concat":
        if only_user(x) is None or node.op_type == "MaxPool":
            break
        moves.append(node)
        x = node.inputs[0]
        assert x is not None
    if not moves:
        return "no move that it alone reads leads into it"
    producer = x.producer()
    if producer is None or constant(x) is not None:
        return "nothing is computed before the move"
    if producer.graph is not edit.graph or only_user(x) is None:
        return "the value before the move has another reader, is a graph output, or is computed in another graph"
    if producer.op_type == "DequantizeLinear":
        return "dequantized before the move: the other way round"
    if isinstance(levels := _levels(quantize), str):
        return levels
    y = quantize.outputs[0]
    edit.context(producer, *_dequantized(producer), *_readers(y, edit))
    first = _like(quantize, x, f"{y.name}.before", y, edit)
    edit.insert_before(moves[-1], first)
    value = first.outputs[0]
    for node in reversed(moves):
        moved = _copy(node, [value, *node.inputs[1:]], levels, edit)
        value = moved.outputs[0]
        if node is moves[0]:
            edit.replace(quantize, moved)
        else:
            edit.insert_before(node, moved)
    return None


def _sink(node: ir.Node, edit: Edit) -> str | None:
    """Dequantize behind a move, and behind the moves that follow."""
    dequantize = [p for v in _data(node) if (p := v.producer()) is not None and _is(p, "DequantizeLinear")]
    if len(dequantize) != len(_data(node)):
        return "an operand is not dequantized"
    levels, *others = map(_levels, dequantize)
    if isinstance(levels, str):
        return levels
    if any(other != levels for other in others):
        return "operands have other scales or zero points"
    quantized = [d.inputs[0] for d in dequantize]
    if any(q is None or constant(q) is not None for q in quantized):
        return "a weight is dequantized"
    if not _takes_levels(node, edit):
        return "MaxPool takes 8-bit numbers since opset 12"
    _Sink(dequantize[0], levels, edit).run(node, quantized)
    return None


@dataclass(frozen=True, slots=True)
class _Sink:
    """Rewrites a tree of moves in 8 bits; ``dequantize``: one of the DQs above, which the new ones are like."""

    dequantize: ir.Node
    levels: _Levels
    edit: Edit

    def run(self, node: ir.Node, quantized: list[ir.Value | None]) -> None:
        """Move 8-bit numbers in place of floats, and give the outputs' readers what they can read."""
        moved = _copy(node, [*quantized, *node.inputs[len(quantized) :]], self.levels, self.edit)
        self.edit.insert_before(node, moved)
        for old, new in zip(node.outputs, moved.outputs, strict=True):
            self._hand_over(old, new)
        self.edit.remove(node)

    def _hand_over(self, old: ir.Value, new: ir.Value) -> None:
        for reader in dict.fromkeys(use.node for use in old.uses()):
            if reader.graph is not self.edit.graph:
                continue
            if _is(reader, "QuantizeLinear") and reader.inputs[0] is old and _levels(reader) == self.levels:
                self.edit.context(*_readers(reader.outputs[0], self.edit))
                self.edit.bypass(reader, new)
            elif _moves(reader) and _data(reader) == [old] and _takes_levels(reader, self.edit):
                self.run(reader, [new])
        if not old.uses() and not old.is_graph_output():
            return
        producer, readers = old.producer(), _readers(old, self.edit)
        assert producer is not None
        self.edit.context(*readers, *(n for r in readers for n in (*_dequantized(r), *_quantizing(r))))
        back = _like(self.dequantize, new, f"{old.name}.dequantized", old, self.edit)
        self.edit.insert_before(producer, back)
        self.edit.stand_in(old, back.outputs[0])


def _copy(node: ir.Node, inputs: list[ir.Value | None], levels: _Levels, edit: Edit) -> ir.Node:
    """Return a move of 8-bit numbers, not yet in the graph."""
    outputs = [
        ir.Value(name=edit.fresh(f"{v.name}.levels"), type=ir.TensorType(levels.dtype), shape=v.shape)
        for v in node.outputs
    ]
    name = edit.fresh(f"{node.outputs[0].name}.moved")
    return ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), outputs=outputs, name=name)


def _is(node: ir.Node, op_type: str) -> bool:
    return node.op_type == op_type and node.domain == ""


def _producer(node: ir.Node, op_type: str) -> ir.Node | None:
    value = node.inputs[0]
    producer = value.producer() if value is not None else None
    return producer if producer is not None and _is(producer, op_type) else None


def _moves(node: ir.Node) -> bool:
    """Whether a node only moves data."""
    if node.domain != "":
        return False
    return node.op_type in MOVES or (node.op_type == "MaxPool" and _pools(node))


def _takes_levels(move: ir.Node, edit: Edit) -> bool:
    """Whether the operator takes 8-bit numbers in the model's opset."""
    return move.op_type != "MaxPool" or edit.model.graph.opset_imports.get("", 1) >= POOL


def _pools(node: ir.Node) -> bool:
    """Whether each window of a MaxPool holds an element, and nothing asks where it stood."""
    whole = not node.attributes.get_int("ceil_mode", 0) and len(node.outputs) == 1
    return whole and set(node.attributes.get_ints("dilations", ())) <= {1}


def _data(node: ir.Node) -> list[ir.Value]:
    inputs = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    return [v for v in inputs if v is not None]


def _readers(value: ir.Value, edit: Edit) -> list[ir.Node]:
    """Return what reads a value in the graph that is edited."""
    return [use.node for use in value.uses() if use.node.graph is edit.graph]


def _behind_dequantize(node: ir.Node) -> bool:
    return _moves(node) and any((p := v.producer()) is not None and _is(p, "DequantizeLinear") for v in _data(node))


def _dequantized(node: ir.Node) -> list[ir.Node]:
    """Return the DQs that a node reads, in its graph."""
    producers = [v.producer() for v in node.inputs if v is not None]
    return [p for p in producers if p is not None and _is(p, "DequantizeLinear") and p.graph is node.graph]


def _quantizing(node: ir.Node) -> list[ir.Node]:
    """Return the Qs that read a node, in its graph."""
    uses = [u.node for v in node.outputs for u in v.uses()]
    return [n for n in uses if _is(n, "QuantizeLinear") and n.graph is node.graph]
