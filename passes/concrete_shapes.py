"""The type of every tensor of a graph, and its shape at given sizes of the dynamic dimensions.

First what the graph declares, with the sizes put in; then ONNX shape inference with the sizes as input shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

Shape = tuple[int, ...]


def infer_shapes(model: ir.Model, sizes: Mapping[str, int]) -> dict[str, Shape]:
    """Return the shape of each tensor by name; tensors whose shape stays unknown are left out."""
    values = list(_values(model.graph))
    known = {str(v.name): shape for v in values if (shape := evaluate(v.shape, sizes)) is not None}
    if len(known) < len(values):
        known = {**_inferred(model, sizes), **known}
    return known


def infer_types(model: ir.Model) -> dict[ir.Value, ir.DataType]:
    """Return the element types of tensors that have none in the graph, as far as ONNX type inference knows them."""
    untyped = [v for node in model.graph for v in node.outputs if v.name and v.type is None]
    if not untyped:
        return {}
    inferred = ShapeInferencePass(check_type=False, strict_mode=False)(model.clone()).model
    types = {v.name: v.type for v in _values(inferred.graph)}
    return {v: t.dtype for v in untyped if isinstance(t := types.get(v.name), ir.TensorType)}


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from (v for v in node.outputs if v.name)


def evaluate(shape: ir.Shape | None, sizes: Mapping[str, int]) -> Shape | None:
    """Put sizes into a shape; None if a dimension stays unknown."""
    if shape is None:
        return None
    dims = [d if isinstance(d, int) else sizes.get(d.value or "") or d.evaluate(sizes) for d in shape]
    return tuple(dims) if all(isinstance(d, int) for d in dims) else None  # type: ignore[arg-type]


def _inferred(model: ir.Model, sizes: Mapping[str, int]) -> dict[str, Shape]:
    """Run ONNX shape inference on a copy with fixed input shapes; an operator it does not know ends it there."""
    copy = model.clone()
    for value in copy.graph.inputs:
        if (shape := evaluate(value.shape, sizes)) is not None:
            value.shape = ir.Shape(shape)
    for node in copy.graph:
        for value in node.outputs:
            value.shape = None if (shape := evaluate(value.shape, sizes)) is None else ir.Shape(shape)
    inferred = ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(copy).model
    return {str(v.name): s for v in _values(inferred.graph) if (s := evaluate(v.shape, sizes)) is not None}
