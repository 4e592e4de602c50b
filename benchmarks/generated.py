"""A transformer of any number of layers, written out in small operators as an exporter would, weights shared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike

HIDDEN, HEADS = 64, 4
SIZE = HIDDEN // HEADS
ROWS: tuple[str | int, ...] = ("batch", "sequence", HIDDEN)
LAYER = 54
"""Nodes of one layer."""


def transformer(nodes: int) -> ir.Model:
    """Return a model of about that many nodes: [batch, sequence, 64] to the same."""
    graph = _Graph()
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(ROWS))
    h = x
    for _ in range(max(nodes // LAYER, 1)):
        h = graph.layer(h)
    h.name = "y"
    made = ir.Graph(
        [x], [h], nodes=graph.nodes, initializers=list(graph.constants.values()), opset_imports={"": 20}, name="g"
    )
    return ir.Model(made, ir_version=10)


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.constants: dict[str, ir.Value] = {}
        self._rng = np.random.default_rng(0)

    def layer(self, x: ir.Value) -> ir.Value:
        """Attention and a two-layer perceptron, each added to its input and normalised."""
        x = self.norm(self.op("Add", [self.attention(x), x], ROWS))
        return self.norm(self.op("Add", [self.perceptron(x), x], ROWS))

    def attention(self, x: ir.Value) -> ir.Value:
        shape = self.op("Shape", [x], (3,), ir.DataType.INT64)
        lead = [self.op("Gather", [shape, self.at(f"at {i}", [i])], (1,), ir.DataType.INT64) for i in (0, 1)]
        split = self.op("Concat", [*lead, self.at("heads", [HEADS]), self.at("size", [SIZE])], (4,),
                        ir.DataType.INT64, axis=0)  # fmt: skip
        scores: tuple[str | int, ...] = ("batch", HEADS, "sequence", "sequence")
        q, k, v = (self.heads(x, which, split, perm) for which, perm in (
            ("q", (0, 2, 1, 3)), ("k", (0, 2, 3, 1)), ("v", (0, 2, 1, 3))))  # fmt: skip
        scaled = self.op("Mul", [self.op("MatMul", [q, k], scores), self.at("scale", SIZE**-0.5)], scores)
        p = self.op("Softmax", [scaled], scores, axis=-1)
        o = self.op("MatMul", [p, v], ("batch", HEADS, "sequence", SIZE))
        o = self.op("Transpose", [o], ("batch", "sequence", HEADS, SIZE), perm=[0, 2, 1, 3])
        merge = self.op("Concat", [*lead, self.at("hidden", [HIDDEN])], (3,), ir.DataType.INT64, axis=0)
        return self.linear(self.op("Reshape", [o, merge], ROWS), "o", HIDDEN, HIDDEN)

    def heads(self, x: ir.Value, which: str, split: ir.Value, perm: Sequence[int]) -> ir.Value:
        sizes = ("batch", "sequence", HEADS, SIZE)
        parts = self.op("Reshape", [self.linear(x, which, HIDDEN, HIDDEN), split], sizes)
        return self.op("Transpose", [parts], [sizes[i] for i in perm], perm=perm)

    def perceptron(self, x: ir.Value) -> ir.Value:
        wide = (*ROWS[:2], 4 * HIDDEN)
        u = self.linear(x, "up", HIDDEN, 4 * HIDDEN)
        erf = self.op("Erf", [self.op("Div", [u, self.at("root", 2**0.5)], wide)], wide)
        gate = self.op("Mul", [u, self.op("Add", [erf, self.at("one", 1.0)], wide)], wide)
        return self.linear(self.op("Mul", [gate, self.at("half", 0.5)], wide), "down", 4 * HIDDEN, HIDDEN)

    def norm(self, x: ir.Value) -> ir.Value:
        one, axis = (*ROWS[:2], 1), self.at("last", [-1])
        centred = self.op("Sub", [x, self.op("ReduceMean", [x, axis], one)], ROWS)
        squared = self.op("Pow", [centred, self.at("two", 2.0)], ROWS)
        variance = self.op("Add", [self.op("ReduceMean", [squared, axis], one), self.at("epsilon", 1e-5)], one)
        scaled = self.op("Div", [centred, self.op("Sqrt", [variance], one)], ROWS)
        scaled = self.op("Mul", [scaled, self.at("gamma", np.ones(HIDDEN))], ROWS)
        return self.op("Add", [scaled, self.at("beta", np.zeros(HIDDEN))], ROWS)

    def linear(self, x: ir.Value, which: str, inner: int, outer: int) -> ir.Value:
        sizes = (*ROWS[:2], outer)
        name = f"{which} weight"
        weight = self.constants.get(name) or self.at(name, self._rng.standard_normal((inner, outer)) / inner**0.5)
        return self.op("Add", [self.op("MatMul", [x, weight], sizes), self.at(f"{which} bias", np.ones(outer))], sizes)

    def at(self, name: str, array: ArrayLike) -> ir.Value:
        """Return the constant of a name: integers become INT64, all else FLOAT."""
        if name not in self.constants:
            given = np.asarray(array)
            tensor = ir.Tensor(given if given.dtype.kind == "i" else given.astype(np.float32), name=name)
            self.constants[name] = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor
            )
        return self.constants[name]

    def op(self, op_type: str, inputs: Sequence[ir.Value], shape: Sequence[str | int],
           dtype: ir.DataType = ir.DataType.FLOAT, **attributes: object) -> ir.Value:  # fmt: skip
        """Append a node and return its output."""
        name = f"{op_type.lower()} {len(self.nodes)}"
        y = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        given = ir.convenience.convert_attributes(attributes)  # type: ignore[arg-type]
        self.nodes.append(ir.Node("", op_type, inputs, given, outputs=[y], name=f"n {name}"))
        return y
