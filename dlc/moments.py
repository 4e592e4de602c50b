"""Second moments of what weighted nodes read, over calibration data: what learned rounding minimises.

    H = E[x x^T],  mu = E[x]        x: [K], the inputs of one sum: a row of a matrix, or the patch under a filter

One pass over the data. What is kept is a [G, K, K] matrix a node; of a batch, at most ``ROWS`` rows or patches, drawn
by a seeded generator, are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from dlc.calibrate import observed
from dlc.passes.base import constant
from dlc.passes.round_weights import Moments
from dlc.passes.weighted import label
from dlc.types import Array, Feeds, Floats

ROWS = 512


def moments(
    model: ir.Model, batches: Iterable[Feeds], *, threads: int = 1, rng: np.random.Generator
) -> dict[str, Moments]:
    """Return the moments of each product and convolution with a constant weight, by the label of the node."""
    nodes = [node for node in model.graph if readable(node)]
    seconds, sums, counts = dict[str, Floats](), dict[str, Floats](), dict[str, int]()
    for batch in rows(model, batches, nodes, threads=threads, rng=rng):
        for name, x in batch.items():  # [G, n, K]
            seconds[name] = seconds.get(name, 0.0) + (np.swapaxes(x, 1, 2) @ x).astype(np.float64)
            sums[name] = sums.get(name, 0.0) + x.sum(axis=1, dtype=np.float64)
            counts[name] = counts.get(name, 0) + x.shape[1]
    return {name: Moments(seconds[name] / n, sums[name] / n) for name, n in counts.items() if n}


def rows(
    model: ir.Model, batches: Iterable[Feeds], nodes: Sequence[ir.Node], *, threads: int, rng: np.random.Generator,
    limit: int = ROWS,
) -> Iterator[dict[str, Array]]:  # fmt: skip
    """Yield, batch by batch, rows or patches that nodes read, [G, n, K] by label; ``n <= limit``, drawn at random."""
    read = tuple(dict.fromkeys(str(node.inputs[0].name) for node in nodes if node.inputs[0] is not None))
    for values in observed(model, batches, read, threads):
        yield {label(node): _rows_of(node, values, limit, rng) for node in nodes}


def readable(node: ir.Node) -> bool:
    """Whether a node is a product or convolution whose rows or patches are known: no auto_pad, nothing transposed."""
    if node.domain != "" or node.op_type not in ("Conv", "Gemm", "MatMul") or node.inputs[0] is None:
        return False
    weight, x = constant(node.inputs[1]), node.inputs[0]
    if weight is None or x.dtype != ir.DataType.FLOAT or constant(x) is not None:
        return False
    if node.op_type == "Conv":
        return node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    return weight.ndim == 2 and not node.attributes.get_int("transA", 0)


def _rows_of(node: ir.Node, values: Mapping[str, Array], limit: int, rng: np.random.Generator) -> Array:
    assert node.inputs[0] is not None
    x = values[str(node.inputs[0].name)]
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
    windows = windows[(slice(None),) * 2 + tuple(slice(None, None, s) for s in (*strides, *dilations))]
    places = (len(x), *windows.shape[2 : x.ndim])
    at = np.unravel_index(_some(int(np.prod(places)), limit, rng), places)
    seen = windows[(at[0], slice(None), *at[1:])]  # [n, C, *k]
    groups = node.attributes.get_int("group", 1)
    return np.ascontiguousarray(seen.reshape(len(seen), groups, -1).swapaxes(0, 1))


def _some(count: int, limit: int, rng: np.random.Generator) -> Array:
    return np.arange(count) if count <= limit else np.sort(rng.choice(count, limit, replace=False))
