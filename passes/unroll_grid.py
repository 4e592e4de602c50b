"""A gather at every position of a grid becomes a view.

    y[.., i, .., j, ..] = x[i, j]        GatherND over a grid of Range  ->  Unsqueeze

Libraries index a padding mask [B, S] with ranges of batch and key positions to give it the shape [B, 1, 1, S]; once
exported, that is a dozen nodes that build the grid and look up what is already there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from dlc.interface import Extent
from dlc.passes.base import constant, scalar
from dlc.passes.edit import Edit
from dlc.passes.extents import contents, extents
from dlc.passes.rewrite import Rewrite


@dataclass(frozen=True)
class UnrollGrid(Rewrite):
    """GatherND at every position of a grid becomes Unsqueeze.

    Not applied if the indices are no grid, or one that does not cover the data in order or repeats it. Sites are the
    GatherND nodes.
    """

    name: ClassVar[str] = "unroll-grid"

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return every GatherND."""
        return (n for n in graph if n.op_type == "GatherND" and n.domain == "")

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Replace one GatherND."""
        if isinstance(found := _inserted_axes(node), str):
            return found
        y = node.outputs[0]
        axes = edit.constant(f"{node.name}.axes", np.array(found, np.int64))
        view = edit.node("Unsqueeze", [node.inputs[0], axes], f"{node.name}.view", dtype=y.dtype, shape=y.shape)
        edit.replace(node, view)
        return None


@dataclass(frozen=True, slots=True)
class _Coordinate:
    """A tensor whose elements are their own position along one axis, counted from the last; ``size`` is its length."""

    axis: int
    size: Extent


def _inserted_axes(node: ir.Node) -> list[int] | str:
    """Return the axes that the grid adds to the data, or say why the lookup is no view."""
    data, indices = node.inputs
    assert data is not None
    grid, sizes = _made_by(indices, "Concat"), extents(data)
    if node.attributes.get_int("batch_dims", 0) or grid is None or sizes is None:
        return "the indices are no grid"
    columns = [_made_by(v, "Unsqueeze") for v in grid.inputs]
    found = [_coordinate(c.inputs[0]) for c in columns if c is not None and contents(c.inputs[1]) == (-1,)]
    target = _target(columns)
    if target is None or len(found) != len(sizes) or None in found:
        return "the indices are no grid"
    places = [len(target) + c.axis for c in found if c is not None]
    if places != sorted(set(places)) or [c.size for c in found if c is not None] != list(sizes) or None in sizes:
        return "the grid does not cover the data in order"
    others = [i for i in range(len(target)) if i not in places]
    return "the grid repeats the data" if any(target[i] != 1 for i in others) else others


def _target(columns: list[ir.Node | None]) -> tuple[Extent, ...] | None:
    """Shape of the grid: that to which all coordinates are expanded."""
    expands = [_made_by(c.inputs[0], "Expand") if c is not None else None for c in columns]
    shapes = {contents(e.inputs[1]) if e is not None else None for e in expands}
    return shapes.pop() if len(shapes) == 1 else None


def _coordinate(value: ir.Value | None) -> _Coordinate | None:
    """Follow Expand and Unsqueeze to a Range from 0 in steps of 1."""
    node = value.producer() if value is not None else None
    if node is None or node.domain != "":
        return None
    if node.op_type == "Range":
        size = contents(node.inputs[1])
        counts = scalar(node.inputs[0]) == 0 and scalar(node.inputs[2]) == 1 and size is not None and len(size) == 1
        return _Coordinate(-1, size[0]) if counts and size is not None else None
    inner = _coordinate(node.inputs[0]) if node.op_type in ("Expand", "Unsqueeze") else None
    if inner is None:
        return None
    if node.op_type == "Expand":
        target = contents(node.inputs[1])
        covers = target is not None and len(target) >= -inner.axis and target[inner.axis] == inner.size
        return inner if covers else None
    shape, axes = extents(node.inputs[0]), constant(node.inputs[1])
    if shape is None or axes is None:
        return None
    rank = len(shape) + axes.size
    inserted = {int(a) % rank for a in axes.reshape(-1)}
    kept = [i for i in range(rank) if i not in inserted]
    return _Coordinate(kept[inner.axis] - rank, inner.size)


def _made_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and node.domain == "" else None
