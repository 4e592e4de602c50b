"""A graph in the making: operators, weights and inputs, each now and then in an unusual form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import numpy as np
import onnx_ir as ir

from dlc.types import Array

Size = int | str
Dims = tuple[Size, ...]
_T = TypeVar("_T")
MICROSOFT = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value and its sizes; names are dynamic dimensions."""

    value: ir.Value
    dims: Dims


@dataclass(frozen=True, slots=True)
class Fed:
    """An input of the graph."""

    value: ir.Value
    dims: Dims


@dataclass
class Sketch:
    """Draws one graph. ``wild``: how often a weight or a value is unusual. ``outer``: the graph around a subgraph.

    ``closed``: a function body, which sees no value from outside. ``imports``: operator sets beside that of onnx.
    """

    rng: np.random.Generator
    opset: int
    dtype: ir.DataType
    wild: float
    outer: Sketch | None = None
    closed: bool = False
    nodes: list[ir.Node] = field(default_factory=list)
    fed: list[Fed] = field(default_factory=list)
    initializers: list[ir.Value] = field(default_factory=list)
    outputs: list[ir.Value] = field(default_factory=list)
    functions: list[ir.Function] = field(default_factory=list)
    imports: dict[str, int] = field(default_factory=dict)
    count: int = 0

    @property
    def root(self) -> Sketch:
        """The main graph."""
        return self if self.outer is None else self.outer.root

    def inner(self, *, closed: bool = False) -> Self:
        """Start a subgraph, or the body of a function."""
        return type(self)(self.rng, self.opset, self.dtype, self.wild, self, closed)

    def chance(self, p: float) -> bool:
        """Decide."""
        return bool(self.rng.random() < p)

    def pick(self, *options: _T) -> _T:
        """Choose one of several."""
        return options[int(self.rng.integers(len(options)))]

    def unusual(self) -> bool:
        """Decide whether something is in an unusual form."""
        return self.chance(self.wild)

    def name(self, stem: str) -> str:
        """Return a name that is free."""
        self.root.count += 1
        return f"{stem}_{self.root.count}"

    def op(self, op: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Write an operator with one output; now and then others see that output too."""
        [y] = self.several(op, *inputs, outputs=1, **attributes)
        if self.outer is None and self.chance(self.wild / 4):
            self.outputs.append(self.op("Identity", y) if self.chance(0.5) else y)
        return y

    def contributed(self, op: str, *inputs: ir.Value | None, shape: Dims) -> ir.Value:
        """Write an operator of ONNX Runtime's own, of which onnx infers no shape; it gives FLOAT."""
        self.root.imports[MICROSOFT] = 1
        y = ir.Value(name=self.name(op.lower()), type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
        self.nodes.append(ir.Node(MICROSOFT, op, list(inputs), outputs=[y], name=self.name(f"node_{op}")))
        return y

    def several(self, op: str, *inputs: ir.Value | None, outputs: int, **attributes: Any) -> Sequence[ir.Value]:
        """Write an operator with several outputs."""
        made = [ir.Value(name=self.name(op.lower())) for _ in range(outputs)]
        node = ir.node(op, list(inputs), attributes, outputs=made, name=self.name(f"node_{op}"))
        self.nodes.append(node)
        return made

    def either(self, op: str, a: ir.Value, b: ir.Value) -> ir.Value:
        """Write a commutative operator with its operands in either order."""
        return self.op(op, *((b, a) if self.chance(0.3) else (a, b)))

    def input(self, dims: Dims, dtype: ir.DataType | None = None) -> Tensor:
        """Add an input to the main graph, captured where a subgraph reads it."""
        root = self.root
        value = ir.Value(name=self.name("x"), type=ir.TensorType(dtype or self.dtype), shape=ir.Shape(dims))
        root.fed.append(Fed(value, dims))
        return Tensor(value, dims)

    def weight(self, *shape: int, positive: bool = False) -> ir.Value:
        """Return a weight: a constant, mostly; sometimes one that others read too, or a caller may set."""
        root = self.root
        if not self.closed and self.unusual():
            alike = [v for v in root.initializers if v.dtype == self.dtype and v.shape == ir.Shape(shape)]
            kind = self.pick("shared", "input", "default")
            if kind == "shared" and alike and not positive:
                return alike[int(self.rng.integers(len(alike)))]
            if kind == "input" and not positive:
                return self.input(shape).value
            if kind == "default":
                value = self._initializer(self._drawn(shape, positive=positive))
                root.fed.append(Fed(value, shape))
                return value
        return self.array(self._drawn(shape, positive=positive))

    def number(self, value: float) -> ir.Value:
        """Return one number, as a scalar or in a shape that broadcasts like one."""
        shape: tuple[int, ...] = () if self.chance(0.7) else (1,)
        if self.unusual():
            shape = self.pick((1,), (1, 1), (1, 1, 1))
        return self.array(np.full(shape, value, self.dtype.numpy()))

    def ints(self, *values: int) -> ir.Value:
        """Return a constant vector of INT64."""
        return self.array(np.array(values, np.int64))

    def array(self, array: Array) -> ir.Value:
        """Return a constant: an initializer or a Constant node."""
        if not (self.closed or self.unusual()):
            return self._initializer(array)
        value = ir.Value(name=self.name("c"))
        node = ir.node("Constant", [], {"value": ir.Tensor(array)}, outputs=[value], name=self.name("node_Constant"))
        self.nodes.append(node)
        return value

    def mean(self, x: ir.Value, *axes: int, keepdims: int = 1) -> ir.Value:
        """Write ReduceMean, whose axes are an operand since opset 18."""
        if self.opset < 18:
            return self.op("ReduceMean", x, axes=list(axes), keepdims=keepdims)
        return self.op("ReduceMean", x, self.ints(*axes), keepdims=keepdims)

    def _initializer(self, array: Array) -> ir.Value:
        tensor = ir.Tensor(array)
        value = ir.Value(
            name=self.name("w"), type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
        )
        self.root.initializers.append(value)
        return value

    def _drawn(self, shape: tuple[int, ...], *, positive: bool) -> Array:
        """Numbers near 1 for what scales, else such that a sum over the longest axis is near 1."""
        if positive:
            drawn = self.rng.uniform(0.5, 1.5, shape)
        else:
            drawn = self.rng.standard_normal(shape) / math.sqrt(max([1, *shape]))
        return np.asarray(drawn, self.dtype.numpy())
