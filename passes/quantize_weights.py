"""Block-wise weight-only quantization: 4 or 8 bits a weight, activations stay FP32.

    MatMul, Gemm   A: [..., K] x B: [K, N]    com.microsoft MatMulNBits, which reads packed weights
    Gather         table: [V, D], axis 0      com.microsoft GatherBlockQuantized, which unpacks the rows it reads
    both           one table                  stored once (``packed_weights``), with the bits of the table
    Conv, ConvTranspose, LSTM, GRU, RNN, and products that MatMulNBits cannot express
                                              unpacked in the graph (``unpack_weights``): the file shrinks, memory and
                                              speed are those of FP32

Not quantized, with the reason: weights that are not finite FP32, too small to gain, read by a node that stays in FP32,
or read in a subgraph; and operators without a weight-only form.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from dlc.errors import Unsupported
from dlc.passes.base import Pass, Rewritten, Site, constant, rewritten
from dlc.passes.blockwise import METHODS, Blocks, Method, quantize
from dlc.passes.emit import Emitter, drop_unused
from dlc.passes.packed_weights import Packer
from dlc.passes.round_weights import Moments
from dlc.passes.unpack_weights import Unpacker
from dlc.passes.weighted import label, weighted_nodes, weights_of
from dlc.types import Array

MICROSOFT = "com.microsoft"
OPERANDS = {
    "MatMul": (0, 1), "Gemm": (0, 1), "Gather": (0,), "Conv": (1,), "ConvTranspose": (1,),
    "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2),
}  # fmt: skip
"""Operator to the inputs that are weights; the rest are data and biases."""


CONVOLUTIONS = ("Conv", "ConvTranspose")
PRODUCTS = ("MatMul", "Gemm")
TIED = frozenset(("Gather", "Gemm", "MatMul"))
"""Operators that may share a weight: they read the same packed bytes."""


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Quantize weights to ``bits``, in blocks of ``block_size`` elements with a scale each.

    ``conv_bits``: for convolutions; rounding them to nearest in 4 bits costs a mobile net most of its accuracy
    (EfficientNet-Lite0, top-1: FP32 89.0, 8 bits 88.6, 4 bits 33.4). ``table_bits``: for tables, also where a product
    reads the table too; None: ``bits``. ``symmetric``: no zero points. ``search``: per block, the scale of least
    squared error instead of the covering one. ``method``: ``hqq`` fits scales and zero points; ``gptq`` needs
    ``moments`` of what the (first) product that reads a weight reads, by label; other weights, such as tables, are
    rounded to nearest.
    ``accuracy_level``: what MatMulNBits may do to activations; 4 rounds them to int8 in blocks (measured on AVX2: 0.4
    to 0.6 of the FP32 time at one row, level with FP32 at 32), 0 keeps them FP32 (slower than FP32).
    ``min_elements``: the smallest weight worth quantizing. ``operators``: visit these alone, for another pass does the
    rest; then to quantize nothing is no error. ``exclude``: nodes, by label, that stay in FP32. ``wide``: products, by
    label, whose weights take 8 bits, rounded to nearest. ``known``: what was made of weights, remembered by their bytes
    and the options, for a search that asks often; moments are not in the key.
    """

    name: ClassVar[str] = "quantize-weights"
    changes_numbers: ClassVar[bool] = True
    bits: int = 4
    conv_bits: int = 8
    table_bits: int | None = None
    block_size: int = 32
    symmetric: bool = True
    search: bool = True
    method: Method = "rtn"
    moments: Mapping[str, Moments] = field(default_factory=dict, repr=False)
    known: dict[Hashable, Blocks] | None = field(default=None, repr=False, compare=False)
    accuracy_level: int = 4
    min_elements: int = 512
    operators: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for option in ("bits", "conv_bits", "table_bits"):
            if (bits := getattr(self, option)) not in (4, 8) and not (bits is None and option == "table_bits"):
                raise Unsupported(f"{option}={bits}: weights are quantized to 4 or 8 bits")
        if self.block_size < 16 or self.block_size & (self.block_size - 1):
            raise Unsupported(f"block_size={self.block_size}: MatMulNBits needs a power of two, at least 16")
        if not 0 <= self.accuracy_level <= 4:
            raise Unsupported(f"accuracy_level={self.accuracy_level}: MatMulNBits knows 0 to 4")
        if self.method not in METHODS:
            raise Unsupported(f"method={self.method!r}: weights are rounded by {', '.join(METHODS)}")
        if self.method == "gptq" and not self.moments:
            raise Unsupported("method='gptq' needs moments of the products' inputs, from calibration data")

    def call(self, model: ir.Model) -> Rewritten:
        """Quantize each weighted node; Unsupported if no weight could be."""
        rewriter = _Rewriter(self, model.graph)
        rewriter.fold_transposed_tables()
        chosen = self.operators or None
        nodes = [n for n in weighted_nodes(model.graph) if chosen is None or n.op_type in chosen]
        sites = [rewriter.rewrite(node) for node in nodes]
        if chosen is None and not any(s.applied for s in sites):
            why = "; ".join(f"{s.op} {s.node!r}: {s.reason}" for s in sites[:3])
            raise Unsupported(f"quantize-weights: nothing was quantized: {why or 'no node reads a weight'}")
        drop_unused(model.graph, rewriter.replaced)
        if any(n.domain == MICROSOFT for n in model.graph):
            model.graph.opset_imports.setdefault(MICROSOFT, 1)
        return rewritten(model, sites)


class _Rewriter:
    """Rewrites the nodes of one graph; a weight that several nodes read is quantized once."""

    def __init__(self, options: QuantizeWeights, graph: ir.Graph) -> None:
        self.options = options
        self.graph = graph
        self.emit = Emitter(graph)
        self.unpacker = Unpacker(self.emit, self._quantize, options.block_size)
        self.packer = Packer(self.emit)
        self.replaced: list[ir.Value] = []

    def fold_transposed_tables(self) -> None:
        """Give each product by a table's transpose, as exporters write it, a constant: the packer knows its numbers."""
        for node in [n for n in self.graph if n.op_type == "Gather" and not n.domain]:
            if self._refusal(node) is None and (table := node.inputs[0]) is not None:
                for user in [u.node for u in table.uses() if _transposes_for_products(u.node)]:
                    columns = np.ascontiguousarray(_tensor(table).numpy().T)
                    ir.convenience.replace_all_uses_with(
                        user.outputs[0], self.emit.constant(f"{table.name}_columns", columns)
                    )
                    self.graph.remove(user, safe=True)

    def rewrite(self, node: ir.Node) -> Site:
        """Quantize the weights of one node, or say why not."""
        reason = self._refusal(node)
        if reason is None:
            weights = _operands(node)
            self.replaced.extend(weights.values())
            if node.op_type == "Gather":
                self._gather(node)
            elif _reads_packed(node):
                self._product(node)
            else:
                bits = self.options.conv_bits if node.op_type in CONVOLUTIONS else self.options.bits
                for index, weight in weights.items():
                    node.replace_input_with(index, self.unpacker.unpack(weight, node, bits))
        return Site(self.options.name, label(node), node.op_type, reason)

    def _refusal(self, node: ir.Node) -> str | None:
        if node.graph is not self.graph:
            return "the node is in a subgraph"
        if label(node) in self.options.exclude:
            return "excluded"
        if node.domain or node.op_type not in OPERANDS:
            return f"no weight-only form of {node.op_type}"
        if not (weights := _operands(node)):
            return "only a bias is constant"
        return next(filter(None, (self._weight_refusal(node, w) for w in weights.values())), None)

    def _weight_refusal(self, node: ir.Node, weight: ir.Value) -> str | None:
        tensor, least = _tensor(weight), self.options.min_elements
        others = [u.node for u in weight.uses() if not _alike(node, u.node) or u.node.graph != self.graph]
        reason = None
        if tensor.dtype != ir.DataType.FLOAT:
            reason = f"weight is {tensor.dtype.name}, not FLOAT"
        elif tensor.size < least:
            reason = f"weight has {tensor.size} elements, fewer than min_elements={least}"
        elif weight.is_graph_output():
            reason = "weight is a graph output"
        elif others:
            reason = f"weight is also read by {others[0].op_type} {label(others[0])!r}"
        elif node.op_type == "Gather" and (len(tensor.shape) != 2 or node.attributes.get_int("axis", 0) != 0):
            reason = "not rows of a table: rank 2 and axis 0 are needed"
        elif node.op_type == "Gather" and tensor.numpy().shape[1] % self.options.block_size:
            reason = f"rows of {tensor.shape[1]} elements are no whole blocks of {self.options.block_size}"
        elif not np.isfinite(tensor.numpy()).all():
            reason = "weight holds NaN or infinity"
        return reason

    def _product(self, node: ir.Node) -> None:
        """MatMul or Gemm to MatMulNBits."""
        weight, o = node.inputs[1], self.options
        assert weight is not None
        gemm = node.op_type == "Gemm"
        transposed = gemm and node.attributes.get_int("transB", 0) == 1
        alpha = node.attributes.get_float("alpha", 1.0) if gemm else 1.0
        k, n = _tensor(weight).numpy().shape
        if transposed:
            k, n = n, k

        def columns(w: Array) -> Array:
            return np.float32(alpha) * (w if transposed else w.T)

        def quantized(w: Array) -> Blocks:
            seen = o.moments.get(label(node))
            if label(node) in o.wide:
                return self._quantize(w, o.block_size, 8, seen, "rtn")
            return self._quantize(w, o.block_size, o.bits, seen)

        b = self.packer.columns(weight, f"columns {transposed} {alpha}", columns, quantized, node)
        bias = self._bias(node, n) if gemm and len(node.inputs) > 2 else None
        inputs = [node.inputs[0], b.data, b.scale, b.zero, None, bias]
        attributes = {"K": k, "N": n, "bits": b.bits, "block_size": o.block_size, "accuracy_level": o.accuracy_level}
        self._replace(node, "MatMulNBits", inputs, attributes)

    def _bias(self, node: ir.Node, n: int) -> ir.Value | None:
        """Return beta * C as [N]."""
        bias, array = node.inputs[2], constant(node.inputs[2])
        beta = node.attributes.get_float("beta", 1.0)
        if bias is None or array is None or (array.shape == (n,) and beta == 1.0):
            return bias
        self.replaced.append(bias)
        return self.emit.constant(f"{bias.name}_bias", np.float32(beta) * np.broadcast_to(array.reshape(-1), (n,)))

    def _gather(self, node: ir.Node) -> None:
        """Gather to GatherBlockQuantized. data: [V, D * bits / 8], scales: [V, D / block]."""
        (table, indices), o = node.inputs, self.options
        assert table is not None
        rows = self.packer.table(table, lambda w: self._quantize(w, o.block_size, o.table_bits or o.bits))
        attributes = {"bits": rows.bits, "block_size": o.block_size, "gather_axis": 0, "quantize_axis": 1}
        self._replace(node, "GatherBlockQuantized", [rows.data, indices, rows.scale, rows.zero], attributes)

    def _replace(self, node: ir.Node, op: str, inputs: list[ir.Value | None], attributes: dict[str, int]) -> None:
        while inputs[-1] is None:
            inputs.pop()
        old, name = node.outputs[0], f"{label(node)}_{op}"
        new = self.emit.node(
            op, inputs, name, dtype=old.dtype, shape=old.shape, attributes=attributes, domain=MICROSOFT
        )
        ir.convenience.replace_nodes_and_values(self.graph, node, [node], [new], [old], new.outputs)

    def _quantize(
        self, w: Array, block: int, bits: int, seen: Moments | None = None, method: Method | None = None
    ) -> Blocks:
        o, method = self.options, method or self.options.method
        options: dict[str, Any] = {"bits": bits, "block": block, "symmetric": o.symmetric, "search": o.search}
        moments = None if seen is None else seen.second[0]
        if o.known is None:
            return quantize(w, **options, method=method, moments=moments)
        key = (sha256(w.tobytes()).digest(), w.shape, *options.values(), method)
        if key not in o.known:
            o.known[key] = quantize(w, **options, method=method, moments=moments)
        return o.known[key]


def _operands(node: ir.Node) -> dict[int, ir.Value]:
    return {i: v for i, v in weights_of(node).items() if i in OPERANDS[node.op_type]}


def _alike(one: ir.Node, other: ir.Node) -> bool:
    """Whether one node's packed weight leaves the other nothing to read in FP32."""
    if one.op_type == "Gather" and _transposes_for_products(other):
        return True
    return one.op_type == other.op_type or {one.op_type, other.op_type} <= TIED


def _transposes_for_products(node: ir.Node) -> bool:
    """Whether a node transposes a matrix for the right-hand side of products, and for nothing else."""
    if node.op_type != "Transpose" or node.domain or node.outputs[0].is_graph_output():
        return False
    uses = node.outputs[0].uses()
    perm = node.attributes.get_ints("perm", (1, 0))
    return tuple(perm) == (1, 0) and all(
        u.node.op_type == "MatMul" and u.idx == 1 and u.node.graph is node.graph for u in uses
    )


def _tensor(weight: ir.Value) -> ir.TensorProtocol:
    assert weight.const_value is not None
    return weight.const_value


def _reads_packed(node: ir.Node) -> bool:
    """Whether MatMulNBits computes this product: a constant [K, N] on the right, at most a constant bias added."""
    weights = _operands(node)
    if node.op_type not in PRODUCTS or set(weights) != {1} or len(_tensor(weights[1]).shape) != 2:
        return False
    if node.op_type == "MatMul":
        return True
    n = _tensor(weights[1]).shape[0 if node.attributes.get_int("transB", 0) else 1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    array = constant(bias)
    fits = bias is None or (array is not None and array.size in (1, n) and array.shape[:-1] in ((), (1,)))
    return fits and not node.attributes.get_int("transA", 0)
