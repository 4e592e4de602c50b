"""A computation inside something: a branch, a loop, a scan, a function; or beside a residual."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from tests.random_graphs.attention import ATTENTION
from tests.random_graphs.shapes import grid
from tests.random_graphs.sketch import Sketch, Tensor
from tests.random_graphs.tokens import graph

WHOLE = (*ATTENTION, grid)
"""Families that need every axis."""
Family = Callable[[Sketch, Tensor], Tensor]


def plain(g: Sketch, x: Tensor, family: Family) -> Tensor:
    """Write it as it is."""
    return family(g, x)


def residual(g: Sketch, x: Tensor, family: Family) -> Tensor:
    """Add the input to the outcome."""
    y = family(g, x)
    return Tensor(g.either("Add", x.value, y.value), x.dims) if y.dims == x.dims else y


def branch(g: Sketch, x: Tensor, family: Family) -> Tensor:
    """Write it in a branch, which reads the input from outside; the condition is fed, or a constant."""
    then, other = g.inner(), g.inner()
    y = family(then, x)
    if y.dims != x.dims:
        return family(g, x)
    seen = g.array(np.array(g.chance(0.5))) if g.chance(0.3) else g.input((), ir.DataType.BOOL).value
    z = other.op("Neg", x.value)
    last = then.op("Identity", y.value)  # an output of a branch is computed in it
    bodies = {"then_branch": graph(then, [], [last]), "else_branch": graph(other, [], [z])}
    return Tensor(g.op("If", seen, **bodies), x.dims)


def loop(g: Sketch, x: Tensor, family: Family) -> Tensor:
    """Repeat it twice, on its own outcome."""
    body = g.inner()
    i, going = (ir.Value(name=g.name(n), type=ir.TensorType(t), shape=ir.Shape([]))
                for n, t in (("i", ir.DataType.INT64), ("going", ir.DataType.BOOL)))  # fmt: skip
    carried = _formal(g, x)
    y = family(body, Tensor(carried, x.dims))
    if y.dims != x.dims:
        return family(g, x)
    outputs = [body.op("Identity", going), body.op("Identity", y.value)]
    count, true = g.array(np.array(2, np.int64)), g.array(np.array(True))
    return Tensor(g.op("Loop", count, true, x.value, body=graph(body, [i, going, carried], outputs)), x.dims)


def scan(g: Sketch, x: Tensor, family: Family) -> Tensor:
    """Do it for each slice along the first axis."""
    if len(x.dims) != 3 or family in WHOLE:
        return family(g, x)
    body = g.inner()
    inner = Tensor(x.value, x.dims[1:])
    each = _formal(g, inner)
    y = family(body, Tensor(each, inner.dims))
    if y.dims != inner.dims:
        return family(g, x)
    outputs = [body.op("Identity", y.value)]
    outputs[0].type, outputs[0].shape = each.type, ir.Shape(inner.dims)  # ORT asks for it
    return Tensor(g.op("Scan", x.value, body=graph(body, [each], outputs), num_scan_inputs=1), x.dims)


def function(g: Sketch, x: Tensor, family: Family) -> Tensor:
    """Write it as a function of the model's own, called once or twice."""
    body = g.inner(closed=True)
    formal = ir.Value(name=g.name("formal"))
    before = len(g.root.fed)
    y = family(body, Tensor(formal, x.dims))
    if len(g.root.fed) > before:  # a function sees no input of the graph
        del g.root.fed[before:]
        return family(g, x)
    name = g.name("Piece")
    made = ir.Function("local", name, graph=graph(body, [formal], [y.value]), attributes=[])
    g.root.functions.append(made)
    value = x.value
    for _ in range(g.pick(1, 2) if y.dims == x.dims else 1):
        value = _called(g, name, value)
    return Tensor(value, y.dims)


def _called(g: Sketch, name: str, value: ir.Value) -> ir.Value:
    y = ir.Value(name=g.name("called"))
    g.nodes.append(ir.Node("local", name, [value], outputs=[y], name=g.name("call")))
    return y


def _formal(g: Sketch, x: Tensor) -> ir.Value:
    """Return an input of a subgraph, whose sizes may or may not be stated."""
    shape = ir.Shape(x.dims) if g.chance(0.7) else None
    return ir.Value(name=g.name("carried"), type=ir.TensorType(g.dtype), shape=shape)


SCOPES = (plain, plain, plain, plain, residual, branch, loop, scan, function)
