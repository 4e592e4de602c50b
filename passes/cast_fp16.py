"""FP32 to FP16: weights, activations and compute.

A node computes in FP16 with every tensor whose type parameter in the operator's schema admits FP16; what the schema
fixes to FP32 (Resize's scales) stays. Casts are put where an FP16 value meets an FP32 node, and the reverse.

Kept in FP32, with the reason: nodes that ``blocked`` names, operators without an FP16 form, nodes with a weight that
FP16 cannot hold, and nodes that read or write a value that was measured to leave FP16's range.

FP16 reaches from 2^-24 to 65504. A weight is too small when the norm of its rounding error exceeds 2^-11 of its own
norm: rounding to 11 significant bits alone stays below that, so more means that elements fell below 2^-14, where bits
are lost, or to zero. Scalars beyond 65504 are mask fill values and bounds, and become the largest finite FP16; scalars
that would become zero (an epsilon) keep their node in FP32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import onnx
import onnx_ir as ir

from dlc.passes.base import Pass, Rewritten, Site, all_nodes, constant, holds_graph
from dlc.passes.concrete_shapes import infer_types
from dlc.passes.emit import Emitter, drop_unused
from dlc.passes.weighted import label, weights_of
from dlc.types import Array

FLOAT, FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
LARGEST = float(np.finfo(np.float16).max)
ROUNDING = 2.0**-11
"""Largest relative error of rounding to FP16's 11 significant bits."""

MARGIN = 2.0
"""How far beyond what was measured a value may go before it overflows: data that calibrates is not all data."""
LOST = 0.5
"""Share of a value's elements, zeros left out, that may be rounded to zero."""

RANGE_CRITICAL = (
    "CumSum", "Exp", "Pow", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
"""Sums, squares and exponentials leave FP16's range: a square does above 255."""

FOLLOWERS = (
    "Add", "Concat", "Expand", "Flatten", "Identity", "Log", "Reciprocal", "Reshape", "Slice", "Split", "Sqrt",
    "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators that stay in FP32 behind FP32 nodes, where a Cast would only lose bits: a variance's tail, moved data."""

ATTRIBUTE_TYPED = (
    "Bernoulli", "BlackmanWindow", "Cast", "Constant", "ConstantOfShape", "EyeLike", "HammingWindow", "HannWindow",
    "MelWeightMatrix", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Range",
)  # fmt: skip
"""Operators whose result has the type that an attribute says, or that make numbers from integers."""

CONTRIB = ("BiasGelu", "FastGelu", "FusedMatMul", "Gelu", "QuickGelu", "SkipLayerNormalization")
"""Operators of com.microsoft, whose schemas onnx does not have, that take FP16 for all their floating-point tensors."""

Slot = tuple[Literal["in", "out"], int]


@dataclass(frozen=True, slots=True)
class Magnitude:
    """What a value was measured to hold: its largest finite magnitude, and the share that FP16 rounds to zero."""

    largest: float
    lost: float


@dataclass(frozen=True)
class CastFp16(Pass):
    """Cast weights and compute to FP16.

    ``keep_io_types``: inputs and outputs stay FP32, with Casts behind and before them; without it the interface
    changes, which a pipeline refuses. ``blocked``: operator types or node names that stay in FP32. ``magnitudes``: what
    values were measured to hold, by name; nodes at a value that FP16 cannot hold, with a margin, stay in FP32 too, and
    each is a site.

    ONNX Runtime's CPU provider computes FP16 nodes in FP32 and drops the Casts between them: there the weights are
    rounded and the activations mostly are not.
    """

    name: ClassVar[str] = "cast-fp16"
    changes_numbers: ClassVar[bool] = True
    keep_io_types: bool = True
    blocked: tuple[str, ...] = RANGE_CRITICAL
    magnitudes: Mapping[str, Magnitude] = field(default_factory=dict, repr=False)

    def call(self, model: ir.Model) -> Rewritten:
        """Decide node by node, convert values, and put Casts where the two precisions meet."""
        graph = model.graph
        inferred = infer_types(model)
        for value, dtype in inferred.items():
            value.type = ir.TensorType(dtype)
        halves = set() if self.keep_io_types else {v for v in graph.inputs if _is_float(v)}
        beyond = {node: reason for node in graph if (reason := self._beyond(node)) is not None}
        chosen: dict[ir.Node, set[Slot]] = {}
        refused: dict[ir.Node, str] = {}
        for node in graph:
            verdict = beyond.get(node) or self._slots(node, model.opset_imports, halves)
            if isinstance(verdict, str):
                refused[node] = verdict
            elif verdict:
                chosen[node] = verdict
                halves.update(node.outputs[i] for side, i in verdict if side == "out")
        sites = tuple(
            Site(self.name, label(n), n.op_type, None if n in chosen else refused.get(n, "the node is in a subgraph"))
            for n in all_nodes(graph)
            if n in beyond or weights_of(n)
        )
        if chosen or halves:
            _convert(graph, chosen, halves, keep_outputs=self.keep_io_types)
        else:
            for value in inferred:
                value.type = None
        return Rewritten(model, modified=bool(chosen or halves), sites=sites)

    def _slots(self, node: ir.Node, opsets: Mapping[str, int], halves: set[ir.Value]) -> set[Slot] | str:
        """Inputs and outputs of a node that become FP16, none if none is FP32, or why the node stays in FP32."""
        if reason := self._blocked(node):
            return reason
        slots = _float_slots(node, opsets)
        if isinstance(slots, str) or not slots:
            return slots
        inputs = [v for side, i in slots if side == "in" and (v := node.inputs[i]) is not None]
        arrays = {v: a for v in inputs if (a := constant(v)) is not None}
        moving = [v for v in inputs if v not in arrays]
        if node.op_type in FOLLOWERS and moving and not any(v in halves for v in moving):
            return f"{node.op_type} follows FP32 nodes"
        return next(filter(None, (_misfit(str(v.name), a) for v, a in arrays.items())), slots)

    def _beyond(self, node: ir.Node) -> str | None:
        """Say which value of a node, as it was measured, FP16 cannot hold."""
        for value in (*node.inputs, *node.outputs):
            if value is None or not _is_float(value) or constant(value) is not None:
                continue
            if (seen := self.magnitudes.get(str(value.name))) is None:
                continue
            if seen.largest * MARGIN > LARGEST:
                return f"range ±{seen.largest:.2g} of {value.name!r} exceeds FP16, which ends at {LARGEST:g}"
            if seen.lost > LOST:
                return f"{seen.lost:.0%} of {value.name!r} would become zero in FP16: at most {seen.largest:.2g}"
        return None

    def _blocked(self, node: ir.Node) -> str | None:
        if named := [b for b in self.blocked if b in (node.op_type, label(node))]:
            return f"{named[0]} is blocked" + (": its range exceeds FP16" if named[0] in RANGE_CRITICAL else " by name")
        if node.op_type in ATTRIBUTE_TYPED:
            return f"{node.op_type} makes FP32 by its attributes"
        if holds_graph(node):
            return f"{node.op_type} holds a subgraph"
        if unknown := [v for v in (*node.inputs, *node.outputs) if v is not None and not _is_typed(v)]:
            return f"the type of {unknown[0].name!r} is not a known tensor type"
        return None


def _float_slots(node: ir.Node, opsets: Mapping[str, int]) -> set[Slot] | str:
    """FP32 tensors of a node whose type parameter admits FP16 too, or why there are none."""
    floats: set[Slot] = {("in", i) for i, v in enumerate(node.inputs) if v is not None and _is_float(v)}
    floats |= {("out", i) for i, v in enumerate(node.outputs) if _is_float(v)}
    if not floats:
        return "weight is not FLOAT" if weights_of(node) else floats
    if node.domain == "com.microsoft" and node.op_type in CONTRIB:
        return floats
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return f"no schema of {node.domain or 'ai.onnx'}::{node.op_type} says that it takes FP16"
    admits = {c.type_param_str: "tensor(float16)" in c.allowed_type_strs for c in schema.type_constraints}
    slots = {slot for slot in floats if admits.get(_type_of(schema, slot), False)}
    return slots or f"{node.op_type}-{schema.since_version} has no FP16 form"


def _type_of(schema: onnx.defs.OpSchema, slot: Slot) -> str:
    """Name of a tensor's type parameter; the last formal parameter may stand for many tensors."""
    side, index = slot
    formal = schema.inputs if side == "in" else schema.outputs
    return str(formal[min(index, len(formal) - 1)].type_str)


def _misfit(name: str, array: Array) -> str | None:
    """Say why a constant cannot be FP16."""
    finite = array[np.isfinite(array)]
    if finite.size == 0 or not finite.any():
        return None
    if array.size == 1:
        return f"{name} = {finite[0]:g} would become zero" if narrowed(array).reshape(-1)[0] == 0 else None
    if (top := float(np.abs(finite).max())) > LARGEST:
        return f"{name} overflows FP16: it holds {top:g}"
    wide = finite.astype(np.float64)
    error = np.linalg.norm(wide - finite.astype(np.float16)) / np.linalg.norm(wide)
    if error > ROUNDING:
        return f"{name} is too small for FP16: rounding would change it by {error:.1e} of its norm"
    return None


def narrowed(array: Array) -> Array:
    """Round to FP16, finite values to finite values."""
    bounded = np.where(np.isfinite(array), np.clip(array, -LARGEST, LARGEST), array)
    return np.asarray(bounded.astype(np.float16))


def _is_typed(value: ir.Value) -> bool:
    return isinstance(value.type, ir.TensorType) or value.const_value is not None


def _is_float(value: ir.Value) -> bool:
    return isinstance(value.type, ir.TensorType) and value.dtype == FLOAT


def _convert(
    graph: ir.Graph, chosen: Mapping[ir.Node, set[Slot]], halves: set[ir.Value], *, keep_outputs: bool
) -> None:
    """Make ``halves`` FP16, feed each chosen slot FP16 and everything else FP32."""
    caster = _Caster(graph, halves)
    produced = [v for v in _values(graph) if v in halves]
    for node, slots in chosen.items():
        for side, index in sorted(slots):
            value = node.inputs[index] if side == "in" else None
            if value is not None and value not in halves:
                node.replace_input_with(index, caster.narrow(value))
    for value in produced:
        value.type = ir.TensorType(FLOAT16)
        for user, index in list(value.uses()):
            if ("in", index) not in chosen.get(user, ()):
                user.replace_input_with(index, caster.widen(value))
        if keep_outputs and value.is_graph_output():
            caster.emit.take_over(value, caster.widen(value), "fp16")
    drop_unused(graph, caster.narrowed)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in list(graph):
        yield from node.outputs


class _Caster:
    """Casts values of one graph, each at most once in a direction."""

    def __init__(self, graph: ir.Graph, halves: set[ir.Value]) -> None:
        self.graph = graph
        self.emit = Emitter(graph)
        self.halves = halves
        self.narrowed: list[ir.Value] = []
        self._narrow: dict[ir.Value, ir.Value] = {}
        self._wide: dict[ir.Value, ir.Value] = {}

    def narrow(self, value: ir.Value) -> ir.Value:
        """FP16 of an FP32 value: another initializer for a constant, else a Cast behind its producer."""
        if value not in self._narrow:
            if (array := constant(value)) is not None:
                self.narrowed.append(value)
                self._narrow[value] = self.emit.constant(f"{value.name}_fp16", narrowed(array))
            else:
                self._narrow[value] = self.emit.cast(value, f"{value.name}_fp16", FLOAT16)
        return self._narrow[value]

    def widen(self, value: ir.Value) -> ir.Value:
        """FP32 of an FP16 value."""
        if value not in self._wide:
            self._wide[value] = self.emit.cast(value, f"{value.name}_fp32", FLOAT)
        return self._wide[value]
