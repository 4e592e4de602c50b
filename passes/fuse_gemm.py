"""A product with a bias becomes one Gemm.

    MatMul(x, W) + b  =  Gemm(x, W, b)                                            x: [M, K],  W: [K, N]
    f(MatMul(x, W) + b)  =  Reshape(f(Gemm(Reshape(x, [-1, K]), W, b)), [..., N])   x: [..., K]

Each sum has the terms it had; Gemm may begin with b. f is Relu, LeakyRelu, Sigmoid or Tanh. At load ONNX Runtime makes
a Gemm of rank 2 itself, but none of a higher rank; there the bias and f each pass over the product once more. That
shows where rows are many and columns few: [4, 32, 128] by [128, 10] with or without f 0.90x, with two dynamic sizes
0.95x; 128 rows by [64, 256] 1.0x, with f 0.98x; by [384, 1536] 1.0x (ONNX Runtime 1.32, AVX512, one thread).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant, only_user
from dlc.passes.channels import FLOATS
from dlc.passes.edit import Edit
from dlc.passes.extents import Extents, extents
from dlc.passes.rewrite import Rewrite

ACTIVATIONS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh")
"""What ONNX Runtime computes along with a Gemm."""
SHAPE = 15
"""First opset whose Shape takes a part of the sizes."""


@dataclass(frozen=True)
class FuseGemm(Rewrite):
    """Add after MatMul becomes Gemm; with a Reshape before and after it where x has more than two dimensions.

    Not applied if the product has another reader or is a graph output, if W is no matrix, if the bias does not
    broadcast to the product, if a rank is unknown or below 2, or in a type that is not floating-point. Of more than two
    dimensions: nor if the bias is not one constant a column, or if a size is 0.
    """

    name: ClassVar[str] = "fuse-gemm"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return each Add that reads a MatMul."""
        return (n for n in graph if n.domain == "" and n.op_type == "Add" and _product(n) is not None)

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Replace one product and its bias."""
        side = _product(node)
        assert side is not None
        product, bias, y = node.inputs[side], node.inputs[1 - side], node.outputs[0]
        assert product is not None
        assert bias is not None
        matmul = product.producer()
        assert matmul is not None
        if only_user(product) is None:
            return "the product has another reader or is a graph output"
        if isinstance(sizes := _sizes(matmul, bias), str):
            return sizes
        if len(sizes) > 2:
            return _flatten(node, matmul, bias, sizes, edit)
        inputs = [*matmul.inputs, bias]
        edit.replace(node, edit.node("Gemm", inputs, f"{node.name}.gemm", dtype=y.dtype, shape=y.shape))
        return None


def _product(add: ir.Node) -> int | None:
    """Return which operand is the product: the first that a MatMul of this graph computes."""
    for i, value in enumerate(add.inputs):
        producer = value.producer() if value is not None else None
        if producer is not None and (producer.domain, producer.op_type) == ("", "MatMul"):
            return i if producer.graph is add.graph else None
    return None


def _sizes(matmul: ir.Node, bias: ir.Value) -> Extents | str:
    """Return the sizes of ``x W``, or say why no Gemm can compute it and add the bias."""
    x, w, b = (extents(v) for v in (*matmul.inputs, bias))
    if x is None or w is None or b is None:
        return "a rank is unknown"
    if len(x) < 2 or len(w) != 2:
        return "not a product with a matrix"
    if (kind := _kind(bias, *matmul.inputs)) not in FLOATS:
        return f"dtype is {kind.name if kind else 'unknown'}"
    sizes = (*x[:-1], w[1])
    if not _broadcasts(b, sizes):
        return "the bias does not broadcast to the product"
    return sizes


def _kind(*values: ir.Value | None) -> ir.DataType | None:
    """Return the type of the first value that has one: operands share it."""
    return next((v.dtype for v in values if v is not None and v.dtype is not None), None)


def _broadcasts(b: Extents, sizes: Extents) -> bool:
    """Whether b takes the shape of the product, and not the product that of b."""
    if len(b) > len(sizes):
        return False
    return all(d == 1 or (d is not None and d == size) for d, size in zip(reversed(b), reversed(sizes), strict=False))


def _flatten(add: ir.Node, matmul: ir.Node, bias: ir.Value, sizes: Extents, edit: Edit) -> str | None:
    """Put a Gemm on the rows of x in the place of a product of a higher rank, and of the activation after it."""
    (x, w), act, row = matmul.inputs, _activation(add), constant(bias)
    assert x is not None
    assert w is not None
    depth, columns = extents(w) or (None, None)
    if row is None or any(d != 1 for d in row.shape[:-1]):
        return "the bias is not one constant a column"
    if not isinstance(depth, int) or 0 in (depth, *sizes):
        return "a size is 0, or the depth is unknown"
    if _unknown(sizes) > 1 and (opset := edit.model.graph.opset_imports.get("", 1)) < SHAPE:
        return f"opset {opset} has no Shape of a part; it came with {SHAPE}"
    name, kind, y = str(add.name), x.dtype, (act or add).outputs[0]
    rows = edit.constant(f"{name}.rows", np.array([-1, depth], np.int64))
    flat = edit.node("Reshape", [x, rows], f"{name}.flat", dtype=kind, shape=ir.Shape([None, depth]))
    offset = edit.constant(f"{name}.bias", row.reshape(-1))
    wide = ir.Shape([None, columns])
    gemm = edit.node("Gemm", [flat.outputs[0], w, offset], f"{name}.gemm", dtype=kind, shape=wide)
    nodes = [flat, gemm]
    if act is not None:
        nodes.append(edit.node(act.op_type, [gemm.outputs[0]], f"{name}.activated", dtype=kind, shape=wide))
        nodes[-1].attributes.update(act.attributes)
    target, shape = _target(x, sizes, name, edit)
    back = edit.node("Reshape", [nodes[-1].outputs[0], target], f"{name}.back", dtype=kind, shape=y.shape)
    if shape:
        back.attributes["allowzero"] = ir.AttrInt64("allowzero", 1)
    edit.replace(act or add, [*nodes, *shape, back])
    return None


def _activation(add: ir.Node) -> ir.Node | None:
    """Return the node that applies an activation to a sum, which nothing else reads."""
    user = only_user(add.outputs[0])
    return user if user is not None and user.domain == "" and user.op_type in ACTIVATIONS else None


def _unknown(sizes: Extents) -> int:
    return sum(not isinstance(size, int) for size in sizes)


def _target(x: ir.Value, sizes: Extents, name: str, edit: Edit) -> tuple[ir.Value, list[ir.Node]]:
    """Return the shape of the product, and the nodes that compute it if more than one size is dynamic."""
    if _unknown(sizes) < 2:
        return edit.constant(f"{name}.shape", np.array([d if isinstance(d, int) else -1 for d in sizes], np.int64)), []
    lead = edit.node("Shape", [x], f"{name}.lead", dtype=ir.DataType.INT64, shape=[len(sizes) - 1],
                     attributes={"end": -1})  # fmt: skip
    columns = edit.constant(f"{name}.columns", np.array(sizes[-1:], np.int64))
    whole = edit.node("Concat", [lead.outputs[0], columns], f"{name}.shape", dtype=ir.DataType.INT64,
                      shape=[len(sizes)], attributes={"axis": 0})  # fmt: skip
    return whole.outputs[0], [lead, whole]
