"""Dynamic int8: weights are quantized once, activations at each run, products are summed in integers.

    y = x W + b  ~  sx * sw * ((xq - zx) Wq) + b       x: [..., K], W: [K, N], b: [N]

    xq, sx, zx = DynamicQuantizeLinear(x)              u8, one scale and zero point a tensor, shared by its readers
    Wq = round(W / sw), sw = max|W| / limit            s8, one scale for each column, [N]
    Gather: row i of a table = s[i] * q[i]             s8, one scale for each row

Measured on ONNX Runtime 1.32, AVX2 without integer dot product, one thread, GOP/s at 128x384x1536: FP32 90, u8·s8 180,
u8·u8 139, s8·s8 27. There u8·s8 adds pairs of products in 16 bits: they saturate if a
weight is larger than 64, hence ``reduce_range``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from dlc.passes.base import Pass, Rewritten, Site, constant, only_user, rewritten
from dlc.passes.emit import Emitter, drop_unused
from dlc.passes.replace import take_over
from dlc.passes.round_weights import Moments
from dlc.passes.weighted import label, weighted_nodes
from dlc.types import Array

MICROSOFT = "com.microsoft"
FULL, REDUCED = 127, 64
"""Largest magnitude of a quantized weight: of 8 bits; and such that 2 * 255 * limit fits into 16 bits."""
FLOAT, INT32 = ir.DataType.FLOAT, ir.DataType.INT32


@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """MatMul and Gemm with constant weights compute in int8; embedding tables are stored in int8.

    ``reduce_range``: weights of 7 bits, for targets without an integer dot product. ``contrib``: write com.microsoft's
    MatMulIntegerToFloat, else MatMulInteger and the scaling in standard operators. ``embeddings``: quantize the tables
    of Gather. ``min_elements``: the smallest table worth two more nodes. ``learn_rounding``: round weights so that the
    outputs come out right, where ``moments`` has those of what the (first) product that reads them reads, by label.
    ``exclude``: labels of nodes that stay in float.
    """

    name: ClassVar[str] = "quantize-dynamic"
    changes_numbers: ClassVar[bool] = True
    reduce_range: bool = False
    contrib: bool = True
    embeddings: bool = True
    min_elements: int = 1 << 20
    learn_rounding: bool = False
    moments: Mapping[str, Moments] = field(default_factory=dict, repr=False)
    exclude: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=(), repr=False)

    def call(self, model: ir.Model) -> Rewritten:
        """Visit each node that reads a weight."""
        rewriter = _Rewriter(model.graph, self)
        sites = [Site(self.name, label(n), n.op_type, rewriter.rewrite(n)) for n in list(weighted_nodes(model.graph))]
        drop_unused(model.graph, rewriter.replaced)
        if any(n.domain == MICROSOFT for n in model.graph):
            model.graph.opset_imports.setdefault(MICROSOFT, 1)
        return rewritten(model, sites)


@dataclass(frozen=True, slots=True)
class _Product:
    """``x W + b``: ``first`` multiplies, ``last`` gives the result; they are one node unless a bias is added after."""

    x: ir.Value
    weight: ir.Value
    transposed: bool  # W is stored as [N, K]
    scale: float
    bias: Array | None
    first: ir.Node
    last: ir.Node
    read: tuple[ir.Value, ...]


class _Rewriter:
    """Rewrites the nodes of one graph; an activation and a weight are quantized once for all that read them."""

    def __init__(self, graph: ir.Graph, options: QuantizeDynamic) -> None:
        self.graph = graph
        self.options = options
        self.emit = Emitter(graph)
        self.replaced: list[ir.Value] = []
        self._activations: dict[ir.Value, tuple[ir.Value, ...]] = {}
        self._weights: dict[tuple[ir.Value, bool, float], tuple[ir.Value, ir.Value]] = {}

    def rewrite(self, node: ir.Node) -> str | None:
        """Quantize one node and return None, or return why not."""
        if node.graph is not self.graph:
            return "the node is in a subgraph"
        if label(node) in self.options.exclude:
            return "excluded"
        if node.op_type == "Gather" and node.domain == "":
            return self._table(node)
        found = _product(node)
        if isinstance(found, str):
            return found
        self._multiply(found)
        return None

    def _table(self, node: ir.Node) -> str | None:
        table, indices = node.inputs[:2]
        assert table is not None
        assert indices is not None
        rows = constant(table)
        if not self.options.embeddings:
            return "tables stay as they are: embeddings=False"
        if reason := _unfit(table):
            return reason
        if rows is None or rows.ndim != 2 or node.attributes.get_int("axis", 0) != 0:
            return "not a lookup of the rows of a matrix"
        others = {u.node.op_type for u in table.uses()} - {"Gather", "Gemm", "MatMul"}
        if others:
            return f"the table is also read by {min(others)}, which keeps it in FP32: the file would hold it twice"
        if rows.size < self.options.min_elements:
            return f"the table has {rows.size} elements, fewer than min_elements={self.options.min_elements}"
        quantized, scale = quantize(rows, axis=1, limit=FULL)
        shape, y = indices.shape, node.outputs[0]
        name = node.name or "table"
        parts = [
            self.emit.node("Gather", [self.emit.constant(f"{table.name}.{suffix}", array), indices], f"{name}.{suffix}",
                           dtype=dtype, shape=None if shape is None else ir.Shape([*shape, width]))
            for suffix, array, dtype, width in (
                ("quantized", quantized, ir.DataType.INT8, rows.shape[1]), ("scale", scale[:, None], FLOAT, 1)
            )
        ]  # fmt: skip
        cast = self.emit.node("Cast", [parts[0].outputs[0]], f"{name}.float", dtype=FLOAT, shape=y.shape,
                              attributes={"to": FLOAT.value})  # fmt: skip
        product = self.emit.node("Mul", [cast.outputs[0], parts[1].outputs[0]], f"{name}.rows", dtype=FLOAT,
                                 shape=y.shape)  # fmt: skip
        self.graph.insert_before(node, [*parts, cast, product])
        take_over(node, product)
        self.replaced.append(table)
        return None

    def _multiply(self, found: _Product) -> None:
        x, sx, zx = self._activation(found.x)
        w, sw = self._weight(found)
        bias = None if found.bias is None else self.emit.constant(f"{found.last.name}.bias", found.bias)
        if self.options.contrib:
            nodes = [self._emit("MatMulIntegerToFloat", [x, w, sx, sw, zx, None, bias], found, domain=MICROSOFT)]
        else:
            total = self._emit("MatMulInteger", [x, w, zx], found, dtype=INT32)
            cast = self._emit("Cast", [total.outputs[0]], found, attributes={"to": FLOAT.value})
            scale = self.emit.node("Mul", [sx, sw], f"{found.last.name}.scale", dtype=FLOAT, shape=sw.shape)
            nodes = [total, cast, scale, self._emit("Mul", [cast.outputs[0], scale.outputs[0]], found)]
            if bias is not None:
                nodes.append(self._emit("Add", [nodes[-1].outputs[0], bias], found))
        self.graph.insert_before(found.last, nodes)
        take_over(found.last, nodes[-1])
        if found.first is not found.last:
            self.graph.remove(found.first, safe=True)
        self.replaced.extend(found.read)

    def _emit(
        self, op: str, inputs: list[ir.Value | None], found: _Product, *, dtype: ir.DataType = FLOAT,
        attributes: dict[str, int] | None = None, domain: str = "",
    ) -> ir.Node:  # fmt: skip
        name, shape = f"{found.last.name}.{op}", found.last.outputs[0].shape
        return self.emit.node(op, inputs, name, dtype=dtype, shape=shape, attributes=attributes, domain=domain)

    def _activation(self, x: ir.Value) -> tuple[ir.Value, ...]:
        """Quantize an activation where it is first read."""
        if x not in self._activations:
            first = next(n for n in self.graph if x in n.inputs)
            outputs = [
                ir.Value(name=self.emit.fresh(f"{x.name}.{part}"), type=ir.TensorType(dtype), shape=shape)
                for part, dtype, shape in (
                    ("quantized", ir.DataType.UINT8, x.shape),
                    ("scale", FLOAT, ir.Shape([])), ("zero_point", ir.DataType.UINT8, ir.Shape([])),
                )
            ]  # fmt: skip
            name = self.emit.fresh(f"{x.name}.quantize")
            self.graph.insert_before(first, ir.Node("", "DynamicQuantizeLinear", [x], outputs=outputs, name=name))
            self._activations[x] = tuple(outputs)
        return self._activations[x]

    def _weight(self, found: _Product) -> tuple[ir.Value, ir.Value]:
        key = (found.weight, found.transposed, found.scale)
        if key not in self._weights:
            array = constant(found.weight)
            assert array is not None
            limit = REDUCED if self.options.reduce_range else FULL
            matrix = array.T if found.transposed else array  # [K, N]
            quantized, scale = quantize(matrix, axis=0, limit=limit)
            seen = self.options.moments.get(label(found.first)) if self.options.learn_rounding else None
            if seen is not None:
                quantized = seen.round(matrix.T[None], scale[None], limit)[0].T
            name = found.weight.name
            self._weights[key] = (
                self.emit.constant(f"{name}.quantized", np.ascontiguousarray(quantized)),
                self.emit.constant(f"{name}.scale", (scale * np.float32(found.scale)).astype(np.float32)),
            )
        return self._weights[key]


def quantize(weight: Array, *, axis: int, limit: int) -> tuple[Array, Array]:
    """Round a matrix to ``-limit..limit``, with one scale along an axis; a slice of zeros has scale 1."""
    peak = np.abs(weight).max(axis=axis, keepdims=True).astype(np.float64)
    scale = np.where(peak > 0, peak / limit, 1.0)
    rounded = np.rint(weight / scale).clip(-limit, limit).astype(np.int8)
    return rounded, scale.reshape(-1).astype(np.float32)


def _product(node: ir.Node) -> _Product | str:  # noqa: PLR0911 - one return a guard
    if node.domain != "" or node.op_type not in ("MatMul", "Gemm"):
        return REFUSED.get(node.op_type, f"no dynamic int8 form of {node.op_type}")
    x, w = node.inputs[0], node.inputs[1]
    assert x is not None
    assert w is not None
    if constant(w) is None:
        return "only the left operand is constant" if node.op_type == "MatMul" else "the weight is not constant"
    if constant(x) is not None:
        return "both operands are constant"
    if reason := _unfit(w):
        return reason
    if w.shape is None or len(w.shape) != 2:
        return "the weight is not a matrix"
    if x.shape is None or len(x.shape) < 2:
        return "the activation is a vector, or its rank is unknown"
    return _gemm(node, x, w) if node.op_type == "Gemm" else _matmul(node, x, w)


def _matmul(node: ir.Node, x: ir.Value, w: ir.Value) -> _Product:
    """Take a bias that is added after the product along; it is added where the sum is scaled."""
    add = only_user(node.outputs[0])
    if add is not None and add.op_type == "Add" and add.domain == "" and add.graph is node.graph:
        other = add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]
        bias = constant(other)
        assert w.shape is not None
        if other is not None and bias is not None and bias.shape == (w.shape[1],):
            return _Product(x, w, transposed=False, scale=1.0, bias=bias, first=node, last=add, read=(w, other))
    return _Product(x, w, transposed=False, scale=1.0, bias=None, first=node, last=node, read=(w,))


def _gemm(node: ir.Node, x: ir.Value, w: ir.Value) -> _Product | str:
    """``alpha x W + beta c``: alpha goes into the scales, beta into the bias."""
    transposed = bool(node.attributes.get_int("transB", 0))
    if node.attributes.get_int("transA", 0):
        return "the activation is transposed"
    c = node.inputs[2] if len(node.inputs) > 2 else None
    bias = constant(c)
    assert w.const_value is not None
    width = w.const_value.shape.numpy()[0 if transposed else 1]
    if c is not None and (bias is None or bias.size not in (1, width) or _rows(bias) != 1):
        return "the bias is not one constant for each column"
    if bias is not None:
        beta = np.float32(node.attributes.get_float("beta", 1.0))
        bias = np.broadcast_to(bias.reshape(-1) * beta, width).astype(np.float32)
    read = (w,) if c is None else (w, c)
    return _Product(x, w, transposed, node.attributes.get_float("alpha", 1.0), bias, node, node, read)


def _rows(bias: Array) -> int:
    return bias.shape[0] if bias.ndim == 2 else 1


def _unfit(weight: ir.Value) -> str | None:
    if weight.dtype != FLOAT:
        return f"the weight is {weight.dtype.name if weight.dtype else 'of unknown type'}, not FLOAT"
    array = constant(weight)
    return None if array is None or np.isfinite(array).all() else "the weight holds NaN or infinity"


REFUSED = {
    "Conv": "dynamic int8 convolution is slower than FP32 wherever it was measured; quantize it statically",
    "ConvTranspose": "there is no integer form of ConvTranspose; quantize it statically",
}
