"""Group normalisation gets the form that is fastest: the statistics in one operator, scale and shift in another.

GN(x) = BN(merge(IN(split(x))))        split: [N, C, *n] -> [N, G, L];  merge: the way back
IN: InstanceNormalization-6 without parameters
BN: BatchNormalization-9 with mean 0, variance 1 and epsilon 0, which computes x * gamma + beta and nothing else
C = G: GN(x) = IN(x; gamma, beta)

PyTorch exports Mul and Add for BN: 0.74x to 0.82x with BN, 0.60x for C = G. ONNX Runtime has no CPU kernel for
GroupNormalization and runs the function body, in 28 nodes: 0.38x. So the operator is never written. Others are slower
than BN, or than IN: a depthwise Conv 1.1x to 1.3x of Mul and Add, LayerNormalization of the groups 1.2x to 1.3x of IN.
For [1, 128, 14, 14], [1, 64, 28, 28] and [1, 32, 56, 56], ONNX Runtime 1.32, AVX512, one thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from dlc.interface import Extent
from dlc.passes.base import constant, only_user
from dlc.passes.edit import Edit
from dlc.passes.extents import Extents, extents, matches, reshaped
from dlc.passes.match_affine import Affine, affine_after
from dlc.passes.match_norm import is_op, made_by
from dlc.passes.rewrite import Rewrite
from dlc.types import Floats

INSTANCE, GROUP, BATCH = "InstanceNormalization", "GroupNormalization", "BatchNormalization"
EPSILON = 1e-5
"""Default of the attribute ``epsilon``."""
PER_CHANNEL = 21
"""First opset in which GroupNormalization has a scale and a bias for each channel."""


@dataclass(frozen=True)
class FuseGroupNorm(Rewrite):
    """Group normalisation, as exporters write it or as the operator, in the fewest passes over the tensor.

    Not applied if a parameter is not constant, if the number of channels is dynamic, in another type than FLOAT, if the
    reshapes do not split and merge the groups, if a value in between has another reader or is a graph output, or if no
    scale and shift are there to be merged. Sites are InstanceNormalization nodes behind a Reshape, and
    GroupNormalization nodes.
    """

    name: ClassVar[str] = "fuse-group-norm"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return instance normalisations of what was reshaped, and group normalisations."""
        return (n for n in graph if is_op(n, GROUP) or (is_op(n, INSTANCE) and made_by(n.inputs[0], "Reshape")))

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Rewrite one normalisation."""
        opset = edit.model.graph.opset_imports.get("", 1)
        norm = _operator(node, opset) if node.op_type == GROUP else _written(node)
        if isinstance(norm, str):
            return norm
        if (parameters := norm.affine.parameters()) is None:
            return "a parameter leaves the range of FLOAT"
        write = _alone if norm.groups == norm.channels else _apart
        edit.replace(norm.affine.last, write(edit, norm, parameters))
        return None


@dataclass(frozen=True, slots=True)
class _Norm:
    """A group normalisation: ``affine`` scales and shifts its channels, and ends at the node whose output it gives.

    ``split``, ``merge``: targets of the two reshapes, where the graph has them.
    """

    x: ir.Value
    shape: Extents
    groups: int
    epsilon: float
    affine: Affine
    split: ir.Value | None = None
    merge: ir.Value | None = None

    @property
    def channels(self) -> int:
        """C, a number."""
        return len(self.affine.scale)


def _written(node: ir.Node) -> _Norm | str:
    """Return the normalisation around an InstanceNormalization between two reshapes."""
    split, merge = made_by(node.inputs[0], "Reshape"), only_user(node.outputs[0])
    x = split.inputs[0] if split is not None else None
    if split is None or x is None or only_user(split.outputs[0]) is None or merge is None:
        return "a value in between has another reader or is a graph output"
    if isinstance(found := _parameters(node, x), str):
        return found
    shape, scale, bias = found
    parts, groups = extents(split.outputs[0]), len(scale)
    channels = shape[1]
    if not is_op(merge, "Reshape") or not matches(reshaped(merge), shape) or parts is None or len(parts) != 3:
        return "the reshapes do not split and merge the groups"
    if parts[:2] != (shape[0], groups) or not isinstance(channels, int) or not groups or channels % groups:
        return "the reshapes do not split and merge the groups"
    affine = affine_after(merge, len(shape), _repeated(scale, channels), _repeated(bias, channels))
    if affine.length < 2 and not (affine.length and affine.neutral) and groups != channels:
        return "no scale and shift per channel follow"
    epsilon = node.attributes.get_float("epsilon", EPSILON)
    return _Norm(x, shape, groups, epsilon, affine, split.inputs[1], merge.inputs[1])


def _operator(node: ir.Node, opset: int) -> _Norm | str:
    """Return the normalisation that is one operator."""
    if opset < PER_CHANNEL:
        return f"before opset {PER_CHANNEL} it has a scale and a bias for each group: a form that onnx withdrew"
    x, groups = node.inputs[0], node.attributes.get_int("num_groups", 1)
    if x is None:
        return "the rank is unknown"
    if isinstance(found := _parameters(node, x), str):
        return found
    shape, scale, bias = found
    if len(shape) < 3 or 0 in shape:
        return "there are no axes behind the channels, or no elements"
    channels = shape[1]
    if not isinstance(channels, int) or groups < 1 or channels % groups:
        return "the number of channels is dynamic, or no multiple of the groups"
    affine = affine_after(node, len(shape), scale, bias)
    return _Norm(x, shape, groups, node.attributes.get_float("epsilon", EPSILON), affine)


def _parameters(node: ir.Node, x: ir.Value) -> tuple[Extents, Floats, Floats] | str:
    """Return the shape of x, scale and bias."""
    if (shape := extents(x)) is None:
        return "the rank is unknown"
    if x.dtype != ir.DataType.FLOAT:
        return f"dtype is {x.dtype.name if x.dtype else 'unknown'}, not FLOAT"
    scale, bias = constant(node.inputs[1]), constant(node.inputs[2])
    return "a parameter is not constant" if scale is None or bias is None else (shape, scale, bias)


def _repeated(parameter: Floats, channels: int) -> Floats:
    """Return one number for each channel, given one for each group or channel: [G] -> [C]."""
    return parameter.repeat(channels // len(parameter))


def _alone(edit: Edit, norm: _Norm, parameters: Sequence[Floats]) -> list[ir.Node]:
    """Write the normalisation of each channel for itself."""
    y = norm.affine.last.outputs[0]
    values = [edit.constant(f"{y.name}.{which}", p) for which, p in zip(("scale", "bias"), parameters, strict=True)]
    return [_instance(edit, [norm.x, *values], f"{y.name}.instance_norm", norm, norm.shape)]


def _apart(edit: Edit, norm: _Norm, parameters: Sequence[Floats]) -> list[ir.Node]:
    """Write the normalisation of the groups, and the scale and shift of the channels, if there are any."""
    y, shape, nodes = norm.affine.last.outputs[0], norm.shape, list[ir.Node]()
    zeros, ones = (edit.constant(f"{y.name}.{name}", np.full(norm.groups, value, np.float32))
                   for name, value in (("zeros", 0), ("ones", 1)))  # fmt: skip
    target = norm.split or edit.constant(f"{y.name}.groups", np.array([0, norm.groups, _rest(norm)]))
    parts = [shape[0], norm.groups, None]
    nodes.append(edit.node("Reshape", [norm.x, target], f"{y.name}.split", dtype=norm.x.dtype, shape=ir.Shape(parts)))
    nodes.append(_instance(edit, [nodes[-1].outputs[0], ones, zeros], f"{y.name}.instance_norm", norm, parts))
    back = norm.merge or _whole(edit, norm, nodes)
    merged = edit.node("Reshape", [nodes[1].outputs[0], back], f"{y.name}.merge", dtype=y.dtype, shape=ir.Shape(shape))
    nodes.append(merged)
    if norm.affine.neutral:
        return nodes
    mean, variance = (edit.constant(f"{y.name}.{name}", np.full(norm.channels, value, np.float32))
                      for name, value in (("mean", 0), ("variance", 1)))  # fmt: skip
    values = [edit.constant(f"{y.name}.{which}", p) for which, p in zip(("scale", "bias"), parameters, strict=True)]
    inputs = [merged.outputs[0], *values, mean, variance]
    affine = edit.node(BATCH, inputs, f"{y.name}.affine", dtype=y.dtype, shape=ir.Shape(shape))
    affine.attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.0)
    return [*nodes, affine]


def _instance(edit: Edit, inputs: Sequence[ir.Value], name: str, norm: _Norm, shape: Sequence[Extent]) -> ir.Node:
    node = edit.node(INSTANCE, inputs, name, dtype=norm.x.dtype, shape=ir.Shape(shape))
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", norm.epsilon)
    return node


def _rest(norm: _Norm) -> int:
    """Elements of a group, -1 if that is dynamic; -1 cannot be inferred for an empty batch."""
    sizes = [size for size in norm.shape[2:] if isinstance(size, int)]
    known = len(sizes) == len(norm.shape) - 2
    return math.prod(sizes) * norm.channels // norm.groups if known else -1


def _whole(edit: Edit, norm: _Norm, nodes: list[ir.Node]) -> ir.Value:
    """Return the target that merges the groups; with several dynamic axes it is read from x, by one more node."""
    sizes = [size if isinstance(size, int) else -1 for size in norm.shape[1:]]
    name = f"{norm.affine.last.outputs[0].name}.shape"
    if sizes.count(-1) < 2:
        return edit.constant(name, np.array([0, *sizes]))
    nodes.append(edit.node("Shape", [norm.x], name, dtype=ir.DataType.INT64, shape=[len(norm.shape)]))
    return nodes[-1].outputs[0]
