"""Draws a graph, and what to feed it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from dlc.types import Array, Feeds
from tests.random_graphs.attention import ATTENTION, grouped
from tests.random_graphs.images import IMAGES, head
from tests.random_graphs.quantized import QUANTIZED
from tests.random_graphs.scopes import SCOPES, Family
from tests.random_graphs.shapes import SHAPES, grid, pooled, positions
from tests.random_graphs.sketch import Dims, Fed, Sketch
from tests.random_graphs.tokens import TOKENS

FAMILIES: Mapping[str, tuple[Family, ...]] = {
    "sequences": (*TOKENS, *SHAPES, grid, grid, positions, positions, pooled, *ATTENTION * 5),
    "rows": (*TOKENS, *SHAPES),
    "images": (*IMAGES, *SHAPES),
}
"""What may be done to each kind of tensor."""
FIRST: tuple[tuple[str, Family], ...] = (
    *((kind, family) for kind, families in FAMILIES.items() for family in dict.fromkeys(families)),
    *(("sequences", family) for family in (*QUANTIZED * 2, *(grouped,) * 4)),
)
"""What graphs begin with, in turn, so that every hundred hold each family; those most often whose rewrites ask most.

Only here is a family of QUANTIZED drawn: it reads what is fed.
"""
STARTS = {"sequences": ("n", "s", 8), "rows": ("n", 8), "images": ("n", 4, 5, 4)}
OPSETS = {13: 8, 17: 8, 18: 8, 20: 9, 21: 10, 23: 11}
"""Opset to IR version."""
TYPES = (ir.DataType.FLOAT,) * 8 + (ir.DataType.FLOAT16, ir.DataType.DOUBLE)
LONGEST = 4
"""Computations of the longest chain."""


ATTEMPTS = 16
"""Graphs that are drawn for a seed before one of them is valid, and one that ONNX Runtime has kernels for."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A graph, and feeds at one or two choices of its dynamic sizes. ``attempts``: how many were drawn."""

    model: ir.Model
    feeds: tuple[Feeds, ...]
    attempts: int


def drawn(seed: int, runs: Callable[[ir.Model, Feeds], bool]) -> Drawn:
    """Draw the graph of a seed: onnx's checker accepts it, and it runs on at least one choice of sizes."""
    for attempt in range(ATTEMPTS):
        try:
            model, feeds = _drawn(np.random.default_rng([seed, attempt]), *FIRST[seed % len(FIRST)])
        except onnx.shape_inference.InferenceError:  # a constant of a higher rank than what follows can take
            continue
        if fed := tuple(each for each in feeds if runs(model, each)):
            return Drawn(model, fed, attempt + 1)
    raise AssertionError(f"seed {seed}: no graph runs")


def _drawn(rng: np.random.Generator, kind: str, family: Family) -> tuple[ir.Model, list[Feeds]]:
    dtype = ir.DataType.FLOAT if family in QUANTIZED else TYPES[int(rng.integers(len(TYPES)))]
    g = Sketch(rng, int(rng.choice(list(OPSETS))), dtype, wild=float(rng.choice([0, 0, 0.1, 0.3])))
    x = g.input(STARTS[kind])
    for _ in range(int(rng.integers(1, LONGEST + 1))):
        scope = SCOPES[int(rng.integers(len(SCOPES)))]
        x = scope(g, x, family)
        family = FAMILIES[kind][int(rng.integers(len(FAMILIES[kind])))]
    if kind == "images" and g.chance(0.6):
        x = head(g, x)
    g.outputs.append(g.op("Identity", x.value) if x.value in g.outputs else x.value)
    stated = g.pick("named", "named", "named", "unnamed", "fixed", "bare")
    sizes = _sizes(rng)[: 1 if stated == "fixed" else None]
    return _model(g, x.dims, stated, sizes[0]), [_feeds(g, each, rng) for each in sizes]


def _sizes(rng: np.random.Generator) -> list[dict[str, int]]:
    """Sizes of the dynamic dimensions: common ones, and one, or none at all."""
    return [{"n": 2, "s": 3}, {"n": int(rng.choice([0, 1, 3])), "s": int(rng.choice([1, 5, 5, 5, 0]))}]


def _model(g: Sketch, dims: Dims, stated: str, sizes: Mapping[str, int]) -> ir.Model:
    """Put the graph together, infer its types, and state as much of its sizes as models state."""
    body = ir.Graph(
        [f.value for f in g.fed], list(dict.fromkeys(g.outputs)), nodes=g.nodes, initializers=g.initializers,
        name="random", opset_imports={"": g.opset, **g.imports, **({"local": 1} if g.functions else {})},
    )  # fmt: skip
    for each in g.fed:
        if each.value.const_value is None:
            each.value.shape = _stated(each, stated, sizes)
    last = g.outputs[-1]
    last.type, last.shape = ir.TensorType(g.dtype), ir.Shape([d if isinstance(d, int) else None for d in dims])
    model = ir.Model(body, ir_version=OPSETS[g.opset], functions=g.functions)
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True)
    _keep_only_inferred(proto, bare=stated == "bare")
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(proto)


def _keep_only_inferred(proto: onnx.ModelProto, *, bare: bool) -> None:
    """Drop what inference could not tell; an output that a checker would refuse for it is none, but for the last."""
    stated = [v for v in proto.graph.value_info if v.type.HasField("tensor_type") and not bare]
    outputs = [v for v in proto.graph.output if v.type.tensor_type.HasField("shape")]
    del proto.graph.value_info[:], proto.graph.output[:]
    proto.graph.value_info.extend(stated)
    proto.graph.output.extend(outputs)


def _stated(each: Fed, how: str, sizes: Mapping[str, int]) -> ir.Shape:
    if how == "fixed":
        return ir.Shape([sizes.get(str(d), d) for d in each.dims])
    return ir.Shape([None if how == "unnamed" and isinstance(d, str) else d for d in each.dims])


def _feeds(g: Sketch, sizes: Mapping[str, int], rng: np.random.Generator) -> Feeds:
    return {str(f.value.name): _array(f, sizes, rng) for f in g.fed if f.value.const_value is None}


def _array(each: Fed, sizes: Mapping[str, int], rng: np.random.Generator) -> Array:
    """Draw numbers; the first row of a mask is all hidden."""
    shape = tuple(d if isinstance(d, int) else sizes[d] for d in each.dims)
    kind = each.value.dtype
    assert kind is not None
    if kind in (ir.DataType.BOOL, ir.DataType.INT64):
        array = np.asarray(rng.integers(0, 2, shape), kind.numpy())
        if array.ndim > 1 and rng.random() < 0.5:
            array[:1] = 0
        return array
    return np.asarray(rng.standard_normal(shape), kind.numpy())
