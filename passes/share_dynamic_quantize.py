"""A value that is quantized at run time more than once is quantized once, for all its readers.

    q, s, z = DynamicQuantizeLinear(x)   twice, or inside DynamicQuantizeMatMul(x, W, ...), becomes one

DynamicQuantizeLinear-11; com.microsoft DynamicQuantizeMatMul, MatMulIntegerToFloat, version 1.
x: [...] FLOAT;  q: [...] u8;  s, z: []

Scale and zero point follow from the least and the largest element, so a view of x - the same elements in the same order
under another shape - has those of x, and its q is the view of q. The numbers are equal bit by bit, NaN included:
ONNX Runtime computes the parameters of both operators in one function. A Transpose that changes the order of elements
is no view: where a NaN stands decides what the extremes are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from dlc.passes.edit import Edit
from dlc.passes.layouts import order
from dlc.passes.rewrite import Rewrite

MICROSOFT = "com.microsoft"
VIEWS = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Operators that keep all elements in their order."""
QUANTIZERS = {"DynamicQuantizeLinear": "", "DynamicQuantizeMatMul": MICROSOFT}


@dataclass(frozen=True)
class ShareDynamicQuantize(Rewrite):
    """Several quantizations of one value, or of views of it, become one.

    A DynamicQuantizeMatMul among them becomes MatMulIntegerToFloat, which reads what is quantized once. Not applied
    where nothing else quantizes the value, or where the other results are graph outputs. Sites are the quantizations
    of values that are no views of others quantized before.
    """

    name: ClassVar[str] = "share-dynamic-quantize"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return what quantizes a value first."""
        seen: set[ir.Value] = set()
        for node in graph:
            if not _quantizes(node) or (x := node.inputs[0]) is None:
                continue
            if seen.isdisjoint(_origins(x)):
                seen.add(x)
                yield node

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Let all that quantizes the value of one node read one quantization."""
        x = node.inputs[0]
        assert x is not None
        others = [n for n in _quantizations(x, edit.graph) if n is not node]
        free = [n for n in others if n.op_type == "DynamicQuantizeMatMul" or not _promised(n)]
        if not free:
            return "every other quantization is a graph output" if others else "nothing else quantizes this value"
        edit.context(*(use.node for n in (node, *free) for use in n.outputs[0].uses() if use.node.graph is edit.graph))
        shared = _shared(x, node, edit)
        if node.op_type == "DynamicQuantizeMatMul":
            free.append(node)
        for other in free:
            _read(shared, x, other, edit)
        return None


def _quantizes(node: ir.Node) -> bool:
    return QUANTIZERS.get(node.op_type) == node.domain


def _promised(node: ir.Node) -> bool:
    return any(v.is_graph_output() for v in node.outputs)


def _origins(value: ir.Value) -> Iterator[ir.Value]:
    """Yield a value, and those that it is a view of."""
    each: ir.Value | None = value
    while each is not None:
        yield each
        node = each.producer()
        each = node.inputs[0] if node is not None and is_view(node) else None


def _quantizations(x: ir.Value, graph: ir.Graph) -> list[ir.Node]:
    """Return what quantizes a value or a view of it, in one graph."""
    found: dict[ir.Node, None] = {}
    pending = [x]
    while pending:
        for use in pending.pop().uses():
            if use.node.graph is not graph or use.idx != 0:
                continue
            if _quantizes(use.node):
                found[use.node] = None
            elif is_view(use.node):
                pending.append(use.node.outputs[0])
    return list(found)


def is_view(node: ir.Node) -> bool:
    """Whether a node gives its first input's elements in their order."""
    if node.domain != "" or (x := node.inputs[0] if node.inputs else None) is None:
        return False
    if node.op_type != "Transpose":
        return node.op_type in VIEWS
    if (p := order(node)) is None or x.shape is None:
        return False
    moved = [axis for axis in p if x.shape[axis] != 1]
    return moved == sorted(moved)


def _shared(x: ir.Value, node: ir.Node, edit: Edit) -> ir.Node:
    """Return the one quantization of a value, right behind what computes the value: before all that read it."""
    if node.op_type == "DynamicQuantizeLinear":
        edit.context(node)
        edit.graph.remove(node)
    else:
        parts = (("quantized", ir.DataType.UINT8, x.shape), ("scale", ir.DataType.FLOAT, ir.Shape([])),
                 ("zero_point", ir.DataType.UINT8, ir.Shape([])))  # fmt: skip
        outputs = [
            ir.Value(name=edit.fresh(f"{x.name}.{part}"), type=ir.TensorType(dtype), shape=shape)
            for part, dtype, shape in parts
        ]
        node = ir.Node("", "DynamicQuantizeLinear", [x], outputs=outputs, name=edit.fresh(f"{x.name}.quantize"))
        edit.context(node)
    producer = x.producer()
    if producer is not None and producer.graph is edit.graph:
        edit.graph.insert_after(producer, node)
    else:
        edit.graph.insert_before(edit.graph[0], node)
    return node


def _read(shared: ir.Node, x: ir.Value, other: ir.Node, edit: Edit) -> None:
    """Let one quantization read the shared one."""
    viewed = other.inputs[0]
    assert viewed is not None
    quantized = _view(viewed, x, shared.outputs[0], other, edit)
    if other.op_type == "DynamicQuantizeLinear":
        for old, new in zip(other.outputs, (quantized, *shared.outputs[1:]), strict=True):
            ir.convenience.replace_all_uses_with(old, new)
        edit.remove(other)
        return
    _, weight, scale, zero, bias, *_ = *other.inputs, None, None
    inputs = [quantized, weight, shared.outputs[1], scale, shared.outputs[2], zero, bias]
    y = other.outputs[0]
    product = edit.node(
        "MatMulIntegerToFloat", inputs, f"{other.name}.shared", dtype=y.dtype, shape=y.shape, domain=MICROSOFT
    )
    edit.replace(other, product)


def _view(value: ir.Value, x: ir.Value, quantized: ir.Value, before: ir.Node, edit: Edit) -> ir.Value:
    """Return the view of the quantized value that ``value`` is of ``x``."""
    if value is x:
        return quantized
    node = value.producer()
    assert node is not None
    source = node.inputs[0]
    assert source is not None
    inner = _view(source, x, quantized, before, edit)
    name = edit.fresh(f"{value.name}.quantized")
    output = ir.Value(name=name, type=ir.TensorType(ir.DataType.UINT8), shape=value.shape)
    view = ir.Node(node.domain, node.op_type, [inner, *node.inputs[1:]], list(node.attributes.values()),
                   outputs=[output], name=name)  # fmt: skip
    edit.insert_before(before, view)
    return output
