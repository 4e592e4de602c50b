"""Root mean square normalisation, written out, becomes one operator.

y = gamma * x / sqrt(mean(x * x) + epsilon)        RMSNormalization-23, SimplifiedLayerNormalization-1

x: [..., *n];  the mean over the axes n;  gamma: [*n], ones where nothing is multiplied

ONNX Runtime registers SimplifiedLayerNormalization in the standard domain, below any opset; onnx has no schema for it.
Both names are one CPU kernel. Against the seven nodes that PyTorch exports, on ONNX Runtime 1.32, AVX512, one thread:
0.58x for 8 rows of 384, 0.39x for 128 of 384, 0.36x for 128 of 576, 0.35x for 128 of 2048. The form with Div ONNX
Runtime fuses itself at load; it does not see those with Reciprocal, or with Mul for Pow.

No form takes in the residual sum before it: SkipSimplifiedLayerNormalization is slower than Add and RMSNormalization,
1.3x for 8 rows of 384, 2.2x for 128 of 384, 2.5x for 128 of 2048. ONNX Runtime does not fuse the two at load.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant, graphs, only_user
from dlc.passes.edit import Edit
from dlc.passes.extents import Extents, extents
from dlc.passes.match_norm import (
    READER,
    MeanSquare,
    Root,
    confined,
    divisor,
    is_op,
    made_by,
    mean_square,
    other,
    square,
)
from dlc.passes.raise_opset import raise_opset
from dlc.passes.rewrite import Rewrite
from dlc.passes.weighted import label

RMS_NORM = 23
"""First opset with the operator RMSNormalization."""
FUSED = ("RMSNormalization", "SimplifiedLayerNormalization")
SAFE = 2.0**53
"""An inverse root of an FP32 number is below 2**75, or infinite: times less than this it does not overflow."""


@dataclass(frozen=True)
class FuseRmsNorm(Rewrite):
    """RMS normalisation becomes RMSNormalization (opset 23), or SimplifiedLayerNormalization below that opset.

    ``max_opset``: the newest opset the model may be raised to. A cast of x to FLOAT before, and of the quotient back to
    FLOAT16 behind, is part of it: the operator computes FLOAT16 in FLOAT. Not applied if epsilon is not constant, over
    other axes than the last ones, if their sizes are dynamic or 0 (the kernel refuses rows of nothing), in another type
    than FLOAT, or if a value in between has another reader or is a graph output. Sites are the roots of mean squares,
    and the operators that are there already.
    """

    name: ClassVar[str] = "fuse-rms-norm"
    max_opset: int = RMS_NORM

    def alternatives(self) -> tuple[Self, ...]:
        """Return the standard operator and ONNX Runtime's own."""
        opsets = [self.max_opset] if self.max_opset < RMS_NORM else [self.max_opset, RMS_NORM - 1]
        return tuple(replace(self, max_opset=opset) for opset in opsets)

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return the roots of mean squares, and the operators that are there."""
        return (n for n in graph if (n.op_type in FUSED and n.domain == "") or mean_square(n) is not None)

    def prepare(self, model: ir.Model) -> None:
        """Raise the opset if the standard operator will be written."""
        found = (n for graph in graphs(model.graph) for n in self.candidates(graph))
        if self.max_opset >= RMS_NORM and any(map(self._matches, found)):
            raise_opset(model, RMS_NORM)

    def _matches(self, node: ir.Node) -> bool:
        return label(node) not in self.skip and not isinstance(_match(node), str)

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Fuse around one root."""
        if isinstance(norm := _match(node), str):
            return norm
        native = self.max_opset >= RMS_NORM and edit.model.graph.opset_imports.get("", 1) >= RMS_NORM
        x, y = norm.x, norm.last.outputs[0]
        gamma = norm.gamma or edit.once((norm.sizes, x.dtype), lambda: _ones(edit, norm))
        fused = edit.node(
            FUSED[0 if native else 1], [x, gamma], f"{norm.last.name}.rms_norm", dtype=x.dtype, shape=y.shape,
            attributes={"axis": -len(norm.sizes)},
        )  # fmt: skip
        fused.attributes["epsilon"] = ir.AttrFloat32("epsilon", norm.epsilon)
        edit.replace(norm.last, fused)
        return None


@dataclass(frozen=True, slots=True)
class _Norm:
    """What the operator needs; ``last`` is the node whose output it gives. ``sizes``: of the normalised axes."""

    x: ir.Value
    gamma: ir.Value | None
    sizes: Extents
    epsilon: float
    last: ir.Node


def _ones(edit: Edit, norm: _Norm) -> ir.Value:
    assert norm.x.dtype is not None
    sizes = [size for size in norm.sizes if isinstance(size, int)]
    return edit.constant("rms_norm.ones", np.ones(sizes, norm.x.dtype.numpy()))


def _match(node: ir.Node) -> _Norm | str:  # noqa: PLR0911 - one return a guard
    found = mean_square(node)
    if found is None:
        return "already fused"
    if found.epsilon is None:
        return "epsilon is not constant"
    squares = square(found.mean.inputs[0])
    x = squares.inputs[0] if squares is not None else None
    if squares is None or x is None:
        return "what is averaged is no square"
    if isinstance(sizes := _sizes(x, found), str):
        return sizes
    if isinstance(root := divisor(node), str):
        return root
    if (quotient := _quotient(root, x, sizes)) is None:
        return "x is not divided by the square root"
    last, gamma = quotient
    inside = {squares, *found.nodes, *root.nodes} | ({root.divide} - {last})
    if not confined(inside, last):
        return READER
    if gamma is None:
        x, last = _halved(x, last)
        last, gamma = _scaled(last, sizes)
    return _Norm(x, gamma, sizes, found.epsilon, last)


def _sizes(x: ir.Value, found: MeanSquare) -> Extents | str:
    """Return the sizes of the normalised axes, or say why the operator cannot normalise them."""
    if x.dtype != ir.DataType.FLOAT:
        return f"dtype is {x.dtype.name if x.dtype else 'unknown'}, not FLOAT"
    shape = extents(x)
    axes = found.axes(shape) if shape is not None else None
    if shape is None or axes is None or axes != tuple(range(axes[0], len(shape))):
        return "the mean is not over the last axes, kept"
    sizes = shape[axes[0] :]
    known = all(isinstance(size, int) and size > 0 for size in sizes)
    return sizes if known else "the sizes of the normalised axes are dynamic or 0"


def _quotient(root: Root, x: ir.Value, sizes: Extents) -> tuple[ir.Node, ir.Value | None] | None:
    """Return the node of the quotient, and the gamma in it if there is one: x / s, x * r, x * (r * gamma).

    Not (x * gamma) / s, which may overflow where x / s does not.
    """
    if root.numerator is x:
        return root.divide, None
    gamma = constant(root.numerator)
    if gamma is None or not is_op(root.divide, "Mul") or not _is_gamma(root.numerator, sizes):
        return None
    last = only_user(root.divide.outputs[0])
    if last is None or not is_op(last, "Mul") or other(last, root.divide.outputs[0]) is not x:
        return None
    return (last, root.numerator) if (np.abs(gamma) < SAFE).all() else None


def _halved(x: ir.Value, last: ir.Node) -> tuple[ir.Value, ir.Node]:
    """Take in the Cast of x from FLOAT16, and that of the quotient back, if both are there."""
    up, down = made_by(x, "Cast"), only_user(last.outputs[0])
    if up is None or down is None or not is_op(down, "Cast"):
        return x, last
    half = up.inputs[0]
    if half is None or half.dtype != ir.DataType.FLOAT16 or down.outputs[0].dtype != ir.DataType.FLOAT16:
        return x, last
    return half, down


def _scaled(last: ir.Node, sizes: Extents) -> tuple[ir.Node, ir.Value | None]:
    """Return the product with a gamma that alone reads the quotient, else the quotient."""
    user = only_user(last.outputs[0])
    if user is None or not is_op(user, "Mul"):
        return last, None
    gamma = other(user, last.outputs[0])
    return (user, gamma) if _is_gamma(gamma, sizes) else (last, None)


def _is_gamma(value: ir.Value | None, sizes: Extents) -> bool:
    return extents(value) == sizes
