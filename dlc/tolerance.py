"""How far two correct computations of one graph may lie apart, relative to the largest output."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from dlc.types import Array, Outputs

EPS32 = float(np.finfo(np.float32).eps)


def reassociation(model: ir.Model) -> float:
    """Bound for FP32 sums taken in another order: 4·n·eps, n the longest dot product with a constant operand.

    Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 4.2: each of two orders errs by at most
    n·eps of the sum of magnitudes; the other factor of 2 leaves room for what later layers do to it.
    """
    longest = max((_dot_length(node) for node in model.graph), default=1)
    return 4 * max(longest, 1) * EPS32


def distance(got: Outputs, stated: Outputs) -> tuple[float, str]:
    """Return the largest ``max|a - b| / max|b|`` over the outputs, and that output's name; NaNs must coincide."""
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
    if not np.array_equal(np.isnan(x), np.isnan(y)):
        return math.inf
    x, y = np.nan_to_num(x), np.nan_to_num(y)
    apart = float(np.abs(x - y).max(initial=0.0))
    return apart / max(float(np.abs(y).max(initial=0.0)), float(np.finfo(np.float32).tiny)) if apart else 0.0


def _dot_length(node: ir.Node) -> int:
    """Products summed into one output element; 1 for operators that are no dot product with a constant."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or weight is None or weight.shape is None:
        return 1
    sizes = [d if isinstance(d, int) else 1 for d in weight.shape]
    if node.op_type in ("Conv", "ConvTranspose"):
        return math.prod(sizes) // max(sizes[0], 1)
    transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
    return sizes[-1] if transposed else sizes[-2 if len(sizes) > 1 else 0]
