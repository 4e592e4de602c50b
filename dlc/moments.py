"""Second moments of what weighted nodes read, over calibration data: what learned rounding minimises.

    H = E[x x^T],  mu = E[x]        x: [K], the inputs of one sum: a row of a matrix, or the patch under a filter

What is kept is a [G, K, K] matrix of each value and way of reading it: queries, keys and values, products of one value,
share one. Of a batch, at most ``ROWS`` rows or patches, drawn by a seeded generator, are looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from functools import partial

import numpy as np
import onnx_ir as ir

from dlc.calibration import MAX_RAM
from dlc.observe import Batches, observe
from dlc.passes.base import constant
from dlc.passes.round_weights import Moments
from dlc.passes.weighted import label
from dlc.types import Array, Bytes, Floats

ROWS = 512
OPERATORS = ("Conv", "Gemm", "MatMul")


class SecondMoments:
    """Sums of x x^T and of x, of what nodes read that read one value alike."""

    def __init__(self, nodes: list[ir.Node], seed: int) -> None:
        self.labels, self.nbytes = [label(node) for node in nodes], _bytes(nodes[0])
        self._node, self._rng = nodes[0], np.random.default_rng(seed)
        self._second: Floats | float = 0.0
        self._sum: Floats | float = 0.0
        self._count = 0

    def add(self, values: Array, _: tuple[float, float]) -> None:
        """Add up products in single precision within a batch, in double over batches."""
        x = rows_of(self._node, values, ROWS, self._rng)  # [G, n, K]
        self._second = self._second + (np.swapaxes(x, 1, 2) @ x).astype(np.float64)
        self._sum = self._sum + x.sum(axis=1, dtype=np.float64)
        self._count += x.shape[1]

    @property
    def moments(self) -> Moments | None:
        """Means over all rows; None before any."""
        if isinstance(self._second, float) or isinstance(self._sum, float) or not self._count:
            return None
        return Moments(self._second / self._count, self._sum / self._count)


def moments(
    model: ir.Model, batches: Batches, *, operators: Collection[str] = OPERATORS, threads: int = 1, seed: int = 0,
    max_ram: Bytes = MAX_RAM,
) -> dict[str, Moments]:  # fmt: skip
    """Return the moments of each product and convolution with a constant weight, by the label of the node.

    Their matrices take at most half of ``max_ram``: nodes are left out for which, in graph order, there is no room.
    """
    read: dict[str, dict[Hashable, list[ir.Node]]] = {}
    room = max_ram // 2
    for node in (n for n in model.graph if n.op_type in operators and readable(n)):
        ways, way = read.setdefault(str(node.inputs[0].name), {}), _way(node)  # type: ignore[union-attr]
        if way in ways:
            ways[way].append(node)
        elif (size := _bytes(node)) <= room:
            ways[way], room = [node], room - size
    wanted = {name: partial(_observers, list(ways.values()), seed) for name, ways in read.items() if ways}
    seen = observe(model, batches, wanted, threads=threads, max_ram=max_ram)
    kept: list[SecondMoments] = [each for observers in seen.of.values() for each in observers]
    return {name: found for each in kept if (found := each.moments) is not None for name in each.labels}


def _observers(ways: list[list[ir.Node]], seed: int) -> list[SecondMoments]:
    return [SecondMoments(nodes, seed) for nodes in ways]


def _way(node: ir.Node) -> Hashable:
    """What tells which elements of a value one sum of a node reads."""
    if node.op_type != "Conv":
        return "rows"
    weight = constant(node.inputs[1])
    assert weight is not None
    geometry = (node.attributes.get_ints(name, ()) for name in ("strides", "dilations", "pads"))
    return (weight.shape[1:], *map(tuple, geometry))  # how many channels a filter sees tells the groups


def _bytes(node: ir.Node) -> Bytes:
    weight = constant(node.inputs[1])
    assert weight is not None
    groups = node.attributes.get_int("group", 1)
    transposed = node.op_type == "Conv" or node.attributes.get_int("transB", 0) == 1
    along = 1 if transposed else 0
    size = weight.size // weight.shape[1 - along] if weight.size else 0
    return groups * size * size * np.dtype(np.float64).itemsize


def readable(node: ir.Node) -> bool:
    """Whether a node is a product or convolution whose rows or patches are known: no auto_pad, nothing transposed."""
    if node.domain != "" or node.op_type not in OPERATORS or node.inputs[0] is None:
        return False
    weight, x = constant(node.inputs[1]), node.inputs[0]
    if weight is None or x.dtype != ir.DataType.FLOAT or constant(x) is not None:
        return False
    if node.op_type == "Conv":
        return node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    return weight.ndim == 2 and not node.attributes.get_int("transA", 0)


def rows_of(node: ir.Node, x: Array, limit: int, rng: np.random.Generator) -> Array:
    """Rows or patches of what a node reads, [G, n, K]; ``n <= limit``, drawn at random."""
    if node.op_type == "Conv":
        return patches(node, x, limit, rng)
    flat = x.reshape(-1, x.shape[-1])
    return flat[_some(len(flat), limit, rng)][None]


def patches(node: ir.Node, x: Array, limit: int, rng: np.random.Generator) -> Array:
    """What filters of a Conv see at some positions of x [b, C, *d], [G, n, C/g * prod(k)]; padding is zero."""
    weight = constant(node.inputs[1])
    assert weight is not None
    kernel, dims = weight.shape[2:], x.ndim - 2
    strides = node.attributes.get_ints("strides", (1,) * dims)
    dilations = node.attributes.get_ints("dilations", (1,) * dims)
    pads = node.attributes.get_ints("pads", (0,) * 2 * dims)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:dims], pads[dims:], strict=True)]) if any(pads) else x
    spans = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, tuple(range(2, x.ndim)))  # [b, C, *o, *span]
    windows = windows[tuple(slice(None, None, s) for s in (1, 1, *strides, *dilations))]
    places = (len(x), *windows.shape[2 : x.ndim])
    at = np.unravel_index(_some(int(np.prod(places)), limit, rng), places)
    seen = windows[(at[0], slice(None), *at[1:])]  # type: ignore[arg-type]  # [n, C, *k]
    groups = node.attributes.get_int("group", 1)
    return np.ascontiguousarray(seen.reshape(len(seen), groups, -1).swapaxes(0, 1))


def _some(count: int, limit: int, rng: np.random.Generator) -> Array:
    return np.arange(count) if count <= limit else np.sort(rng.choice(count, limit, replace=False))
