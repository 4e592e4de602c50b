"""How far two correct computations of one graph may lie apart, relative to the largest output."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from dlc.types import Array, Outputs

EPS32 = float(np.finfo(np.float32).eps)
EPS = {
    ir.DataType.DOUBLE: float(np.finfo(np.float64).eps),
    ir.DataType.FLOAT: EPS32,
    ir.DataType.FLOAT16: float(np.finfo(np.float16).eps),
    ir.DataType.BFLOAT16: 2.0**-7,
}
REDUCTIONS = (
    "Reduce",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    "GlobalAveragePool",
    "Softmax",
    "LogSoftmax",
    "Attention",
)


def reassociation(model: ir.Model) -> float:
    """Bound between two correct computations of a graph: 4·n·eps + 4·eps·nodes, eps of its narrowest float type.

    n is the longest sum: products of a dot product with a constant, or elements of a reduced axis. Two orders of one
    sum each err by at most n·eps of the sum of magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, 2nd
    ed., section 4.2); the other factor of 2 is for what later layers do to it. The second term lets elementary
    functions differ by some units in the last place, once a node.
    """
    nodes = list(model.graph.all_nodes())
    longest = max((_sum_length(node) for node in nodes), default=1)
    return 4 * _eps(nodes) * (max(longest, 1) + len(nodes))


def _eps(nodes: list[ir.Node]) -> float:
    """Return the spacing of numbers at 1 of the narrowest type that a node computes in; FP32 where none is stated."""
    kinds = {v.dtype for node in nodes for v in node.outputs}
    return max((EPS[kind] for kind in kinds if kind in EPS), default=EPS32)


def distance(got: Outputs, stated: Outputs) -> tuple[float, str]:
    """Return the largest ``max|a - b| / max|b|`` over the outputs, and that output's name.

    NaNs and infinities must coincide; the distance is that of the finite numbers.
    """
    worst, where = 0.0, ""
    for name, b in stated.items():
        if (error := _relative(got[name], b)) > worst:
            worst, where = error, name
    return worst, where


def _relative(a: Array, b: Array) -> float:
    if a.shape != b.shape or a.dtype != b.dtype:
        return math.inf
    if a.dtype.kind not in "fc":
        return 0.0 if np.array_equal(a, b) else math.inf
    x, y = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(y)
    if not np.array_equal(np.isfinite(x), finite) or not np.array_equal(x[~finite], y[~finite], equal_nan=True):
        return math.inf
    x, y = x[finite], y[finite]  # an infinity is no scale: against it every difference would be nothing
    apart = float(np.abs(x - y).max(initial=0.0))
    return apart / max(float(np.abs(y).max(initial=0.0)), float(np.finfo(np.float32).tiny)) if apart else 0.0


def _sum_length(node: ir.Node) -> int:
    """Terms summed into one output element, as far as constant operands and static axes tell; at least 1."""
    if node.op_type.startswith(REDUCTIONS):
        read = node.inputs[0] if node.inputs else None
        return max((d for d in (read.shape or ()) if isinstance(d, int)), default=1) if read is not None else 1
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or weight is None or weight.shape is None:
        return 1
    sizes = [d if isinstance(d, int) else 1 for d in weight.shape]
    if node.op_type in ("Conv", "ConvTranspose"):
        return math.prod(sizes) // max(sizes[0], 1)
    transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
    return sizes[-1] if transposed else sizes[-2 if len(sizes) > 1 else 0]
