"""What a chain of views does to the axes, told from its operators and checked against what numpy does."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.passes.views import View, size, sources
from dlc.types import Array
from tests.passes.texts import annotated, compute, graph


def view_of(model: ir.Model) -> View | None:
    """Return the output as a view of the input, None if it is none."""
    found = [(origin, view) for origin, view, _ in sources(model.graph.outputs[0])]
    return next((view for origin, view in found if origin is model.graph.inputs[0]), None)


def test_packed_heads_with_the_sequence_first() -> None:
    model = graph("""g (float[s, b, 24] x) => (float[n, s, 2] y) <int64[4] packed = {0, 0, 3, 8}, int64 last = {2},
        int64[3] heads = {0, -1, 2}> {
            a = Reshape(x, packed)
            t = Transpose<perm = [2, 0, 1, 3]>(a)
            one = Gather(t, last)
            h = Reshape(one, heads)
            y = Transpose<perm = [1, 0, 2]>(h)
        }""")
    view = view_of(model)
    assert view is not None
    s, b, hidden = view.source
    assert [f.size for f in hidden] == [3, 4, 2]
    assert view.axes == ((*b, hidden[1]), s, (hidden[2],))
    assert view.fixed == {hidden[0]: 2}


@pytest.mark.parametrize(
    ("body", "axes", "fixed"),
    [
        ("int64[3] t = {0, 3, 8}> { y = Reshape(x, t) }", ["b", 3, 8], []),
        ("int64[2] t = {-1, 12}> { y = Reshape(x, t) }", [None, 12], []),
        ("int64[1] t = {2}, int64[1] u = {4}, int64[1] a = {1}> { y = Slice(x, t, u, a) }", ["b", 2, 4], [1]),
        ("int64[2] t = {2, 4}> { z, y = Split<axis = 1>(x, t) }", None, None),
        ("int64[2] t = {3, 3}> { z, y = Split<axis = 1>(x, t) }", ["b", 3, 4], [1]),
        ("int64 t = {-1}> { y = Gather<axis = 1>(x, t) }", ["b", 4], [5]),
        ("int64[1] t = {0}> { u = Unsqueeze(x, t) y = Squeeze(u, t) }", ["b", 6, 4], []),
        ("int64[1] t = {0}> { y = Identity(x) }", ["b", 6, 4], []),
        ("int64[3] t = {0, 4, 6}> { y = Reshape(x, t) }", None, None),  # no factor of 6 is 4
        ("int64[2] t = {6, -1}> { y = Reshape(x, t) }", None, None),  # b may be no multiple of 6
        ("int64[1] t = {1}, int64[1] u = {3}, int64[1] a = {1}> { y = Slice(x, t, u, a) }", None, None),
        ("int64[1] t = {0}, int64[1] u = {2}, int64[1] a = {2}> { y = Slice(x, t, u, a) }", None, None),  # last
        ("int64[2] t = {0, 1}> { y = Gather<axis = 1>(x, t) }", None, None),
        ("int64[1] t = {0}> { y = Neg(x) }", None, None),
    ],
)  # fmt: skip
def test_operators(body: str, axes: list[int | str | None] | None, fixed: list[int] | None) -> None:
    view = view_of(
        ir.from_onnx_text(f"""<ir_version: 10, opset_import: ["": 20]>
        g (float[b, 6, 4] x) => (float y) <{body}""")
    )
    assert (None if view is None else [size(a) for a in view.axes]) == axes
    assert (None if view is None else list(view.fixed.values())) == fixed


@pytest.mark.parametrize(
    ("result", "body", "axes"),
    [
        ("b, 6, 4", "int64[3] t = {1, 1, 1}> { y = Expand(x, t) }", ["b", 6, 4]),
        ("5, b, 6, 4", "int64[4] t = {5, 1, 1, 1}> { y = Expand(x, t) }", [5, "b", 6, 4]),
        ("b, 3, 6, 4", "int64[1] u = {1}, int64[4] t = {1, 3, 1, 1}> { a = Unsqueeze(x, u) y = Tile(a, t) }",
         ["b", 3, 6, 4]),
        ("b, 12, 4", "int64[3] t = {1, 2, 1}> { y = Tile(x, t) }", None),  # along an axis that has a size
        ("5, 6, 4", "int64[3] t = {5, 1, 1}> { y = Expand(x, t) }", None),  # b may be 1
        ("c, 6, 4", "int64[3] t = {2, 1, 1}> { y = Tile(x, t) }", None),
    ],
)  # fmt: skip
def test_copies(result: str, body: str, axes: list[int | str | None] | None) -> None:
    view = view_of(annotated(f"g (float[b, 6, 4] x) => (float[{result}] y) <{body}"))
    assert (None if view is None else [size(a) for a in view.axes]) == axes
    assert view is None or sum(len(view.copies(a)) for a in view.axes) == len(
        {size(a) for a in view.axes} - {"b", 6, 4}
    )


def moved(view: View, x: Array) -> Array:
    """Do at once what a view says: split all factors, select, copy, order, merge."""
    factors = [f for axis in view.source for f in axis]
    whole = x.reshape([int(str(f.size)) for f in factors])
    taken = whole[tuple(view.fixed.get(f, slice(None)) for f in factors)]
    copies = [f for axis in view.axes for f in view.copies(axis)]
    taken = np.broadcast_to(taken, [*(int(str(f.size)) for f in copies), *taken.shape])
    left = [*copies, *(f for f in factors if f not in view.fixed)]
    order = [left.index(f) for axis in view.axes for f in axis]
    return taken.transpose(order).reshape([int(str(size(axis))) for axis in view.axes])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_a_view_says_what_the_operators_do(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=2, max_size=4))
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    value = first = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
    nodes, constants, now = list[ir.Node](), list[ir.Value](), x
    for step in range(data.draw(st.integers(1, 5))):
        node, array, now = drawn(data, value, now, step)
        constants += [v for v in node.inputs[1:] if v is not None]
        nodes.append(node)
        value = node.outputs[0]
        value.shape, value.type = ir.Shape(now.shape), ir.TensorType(ir.DataType.FLOAT)
        assert array is None or array.dtype == np.int64
    model = ir.Model(
        ir.Graph([first], [value], nodes=nodes, initializers=constants, opset_imports={"": 20}), ir_version=10
    )
    assert np.array_equal(compute(model, {"x": x})[str(value.name)], now)
    view = view_of(model)
    if view is not None:
        assert np.array_equal(moved(view, x), now)
    else:  # a size was split across factors that no axis is made of, or an axis of size 1 was selected
        assert {n.op_type for n in nodes} & {"Reshape", "Gather"}


def drawn(data: st.DataObject, value: ir.Value, x: Array, step: int) -> tuple[ir.Node, Array | None, Array]:
    """Draw one operator on a value that holds ``x``; return it, its operand, and what it gives."""
    rank, name = x.ndim, f"v{step}"
    kinds = ["Transpose", "Reshape", *(["Gather"] if rank > 1 else []), *(["Expand", "Tile"] if 1 in x.shape else [])]
    kind = data.draw(st.sampled_from(kinds))
    if kind == "Transpose":
        perm = data.draw(st.permutations(range(rank)))
        return _node(kind, [value], name, perm=list(perm)), None, x.transpose(perm)
    if kind == "Gather":
        axis = data.draw(st.integers(0, rank - 1))
        index = np.array(data.draw(st.integers(0, x.shape[axis] - 1)), np.int64)
        return _node(kind, [value, _operand(name, index)], name, axis=axis), index, x.take(int(index), axis)
    if kind in ("Expand", "Tile"):
        copies = np.array([2 if i == x.shape.index(1) else 1 for i in range(rank)], np.int64)
        return _node(kind, [value, _operand(name, copies)], name), copies, np.tile(x, copies)
    at = data.draw(st.integers(0, rank - 1))
    small = next(d for d in (3, 2, 1) if x.shape[at] % d == 0)
    parted = [*x.shape[:at], small, x.shape[at] // small, *x.shape[at + 1 :]]
    if data.draw(st.booleans()) and rank > 1:
        parted = [x.shape[0] * x.shape[1], *x.shape[2:]]
    target = np.array(parted, np.int64)
    return _node(kind, [value, _operand(name, target)], name), target, x.reshape(parted)


def _node(op: str, inputs: list[ir.Value], name: str, **attributes: int | list[int]) -> ir.Node:
    return ir.node(op, inputs, attributes, outputs=[ir.Value(name=name)], name=f"n_{name}")


def _operand(name: str, array: Array) -> ir.Value:
    tensor = ir.Tensor(array, name=f"{name}.operand")
    return ir.Value(name=tensor.name, type=ir.TensorType(ir.DataType.INT64), shape=tensor.shape, const_value=tensor)
