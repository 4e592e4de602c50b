"""BF16 emulated in FP32: what hardware with BF16 tensors and FP32 accumulation computes.

    y = round(f(round(x), round(w)))        round: Cast to BFLOAT16 and back, to nearest, ties to even

Weights are stored as BFLOAT16, half the bytes, with a Cast that the runtime folds when it loads the model. The result
of each operator is rounded once, whatever it sums inside; operators that only move or choose values are left alone, for
what they read is BF16 already. The scale of rounding is the ONNX operator: MatMul and Add round twice, Gemm once.

Emulated because ONNX Runtime's CPU provider has no BF16 kernel of MatMul, Conv, Add, Softmax and most others. Its Cast
rounds to nearest even, and its optimisers keep a Cast that loses bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import ml_dtypes
import numpy as np
import onnx_ir as ir

from dlc.passes.base import Pass, Rewritten, Site, all_nodes
from dlc.passes.concrete_shapes import infer_types
from dlc.passes.emit import Emitter, drop_unused
from dlc.passes.weighted import label, weights_of
from dlc.types import Array

FLOAT, BFLOAT16 = ir.DataType.FLOAT, ir.DataType.BFLOAT16
LARGEST = (2 - 2.0**-7) * 2.0**127

EXACT = (
    "Abs", "Clip", "Compress", "Concat", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GatherElements",
    "GatherND", "GlobalMaxPool", "Identity", "Max", "MaxPool", "Min", "Neg", "Pad", "ReduceMax", "ReduceMin", "Relu",
    "Reshape", "ReverseSequence", "ScatterElements", "ScatterND", "Sign", "Slice", "SpaceToDepth", "Split", "Squeeze",
    "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Where",
)  # fmt: skip
"""Operators whose results are among their inputs' values, up to sign: BF16 in, BF16 out."""


@dataclass(frozen=True)
class EmulateBf16(Pass):
    """Round weights, inputs and every computed tensor to BF16; inputs and outputs of the graph stay FP32.

    ``largest``: the largest finite magnitude that values were measured to hold, by name. BF16 ends a little before
    FP32: what lies beyond, as the fill value of a mask does, would become infinite; it is not rounded, and its node is
    a site. ``exclude``: labels of nodes whose weights and results are not rounded.
    """

    name: ClassVar[str] = "emulate-bf16"
    changes_numbers: ClassVar[bool] = True
    largest: Mapping[str, float] = field(default_factory=dict, repr=False)
    exclude: tuple[str, ...] = ()

    def call(self, model: ir.Model) -> Rewritten:
        """Round constants, then inputs, then the outputs of each node."""
        graph = model.graph
        emit = Emitter(graph)
        inferred = infer_types(model)
        for value, dtype in inferred.items():
            value.type = ir.TensorType(dtype)
        excluded = [n for n in graph if label(n) in self.exclude]
        refused = {v: r for v in graph.initializers.values() if (r := _refusal(v))}
        refused |= {v: "excluded" for n in excluded for v in n.inputs if v is not None and v.is_initializer()}
        beyond = {v: r for v in _values(graph) if (r := self._beyond(v))}
        beyond |= {v: "excluded" for n in excluded for v in n.outputs}
        sites = tuple(
            self._site(n, graph, {**refused, **beyond})
            for n in all_nodes(graph)
            if weights_of(n) or any(v in beyond for v in n.outputs)
        )
        values = [v for v in graph.inputs if v.uses() and v not in beyond]
        values += [v for n in graph if n.op_type not in EXACT and not _widens(n) for v in n.outputs if v not in beyond]
        constants = [v for v in graph.initializers.values() if v.uses() and v not in refused and not v.is_graph_input()]
        stored = [_store(emit, v) for v in constants]
        rounded = [_round(emit, v) for v in values]
        drop_unused(graph, constants)
        modified = any((*stored, *rounded))
        for value in () if modified else inferred:
            value.type = None
        return Rewritten(model, modified=modified, sites=sites)

    def _beyond(self, value: ir.Value) -> str | None:
        seen = self.largest.get(str(value.name), 0.0)
        return f"range ±{seen:.2g} of {value.name!r} exceeds BF16" if seen > LARGEST else None

    def _site(self, node: ir.Node, graph: ir.Graph, refused: dict[ir.Value, str]) -> Site:
        reasons = [refused[v] for v in (*weights_of(node).values(), *node.outputs) if v in refused]
        if node.graph is not graph:
            reasons = ["the node is in a subgraph"]
        return Site(self.name, label(node), node.op_type, reasons[0] if reasons else None)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


def rounded(array: Array) -> Array:
    """Round to BF16, finite values to finite values."""
    bounded = np.where(np.isfinite(array), np.clip(array, -LARGEST, LARGEST), array)
    return np.asarray(bounded.astype(ml_dtypes.bfloat16))


def _refusal(value: ir.Value) -> str | None:
    """Say why a constant stays as it is."""
    tensor = value.const_value
    if tensor is None or tensor.dtype != FLOAT:
        return f"weight is {'unknown' if tensor is None else tensor.dtype.name}, not FLOAT"
    if tensor.size > 1 and (top := _largest(tensor.numpy())) > LARGEST:
        return f"{value.name} overflows BF16: it holds {top:g}"
    return None


def _largest(array: Array) -> float:
    return float(np.abs(array, where=np.isfinite(array), out=np.zeros_like(array)).max(initial=0))


def _store(emit: Emitter, value: ir.Value) -> bool:
    """Store a constant as BF16; a single element as the FP32 it rounds to, which needs no Cast."""
    assert value.const_value is not None
    array = value.const_value.numpy()
    narrow = rounded(array)
    if array.size <= 1 or value.is_graph_output():
        if np.array_equal(narrow.astype(np.float32), array, equal_nan=True):
            return False
        value.const_value = ir.Tensor(narrow.astype(np.float32), name=value.name)
        return True
    stored = emit.constant(f"{value.name}_bf16", narrow, BFLOAT16)
    value.replace_all_uses_with(emit.cast(stored, f"{value.name}_fp32", FLOAT))
    return True


def _round(emit: Emitter, value: ir.Value) -> bool:
    """Round what a value's readers see, unless that is done already."""
    is_float = isinstance(value.type, ir.TensorType) and value.dtype == FLOAT
    readers = [u.node for u in value.uses()]
    done = readers and not value.is_graph_output() and all(map(_narrows, readers))
    if not is_float or done or not (readers or value.is_graph_output()):
        return False
    narrow = emit.cast(value, f"{value.name}_bf16", BFLOAT16)
    wide = emit.cast(narrow, f"{value.name}_rounded", FLOAT)
    for user, index in list(value.uses()):
        if user is not narrow.producer():
            user.replace_input_with(index, wide)
    if value.is_graph_output() and not value.is_graph_input():
        emit.take_over(value, wide, "exact")
    return True


def _narrows(node: ir.Node) -> bool:
    return node.op_type == "Cast" and node.attributes.get_int("to", 0) == BFLOAT16


def _widens(node: ir.Node) -> bool:
    return node.op_type == "Cast" and node.inputs[0] is not None and node.inputs[0].dtype == BFLOAT16
