"""How far to smooth each normalised activation, by what quantization does to the products that read it.

    s_j = max|X_j|^a / max|W_j|^(1 - a),  rounded to a power of two        X: rows of the activation, [n, K], W: [K, N]

a is the one, of ``ALPHAS``, of the least ``||Q(X / s) Q(s W) - X W||^2``: Q is 8 bits, one range for all of X and one
for each column of W; an activation for which no a is better than no smoothing gets no factors.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from dlc.moments import readable, rows
from dlc.passes.quantize_dynamic import FULL, quantize
from dlc.passes.smooth_quant import SmoothQuant, readers
from dlc.passes.weighted import label
from dlc.types import Array, Feeds, Floats

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
SAMPLE = 64
"""Rows of a batch that are looked at."""


def smoothing(
    model: ir.Model, batches: Iterable[Feeds], *, threads: int = 1, rng: np.random.Generator
) -> dict[str, Floats]:
    """Return the factors for :class:`SmoothQuant`, by the name of the value."""
    sites = {}
    for node in SmoothQuant().candidates(model.graph):
        products = readers(node)
        if not isinstance(products, str) and all(readable(each.node) for each in products):
            weights = [w.T if p.node.attributes.get_int("transB", 0) else w for p in products for w in [p.weight]]
            sites[str(node.outputs[0].name)] = (products[0].node, np.concatenate(weights, axis=1))
    if not sites:
        return {}
    seen: dict[str, list[Array]] = {}
    nodes = [node for node, _ in sites.values()]
    for batch in rows(model, batches, nodes, threads=threads, rng=rng, limit=SAMPLE):
        for name, x in batch.items():
            seen.setdefault(name, []).append(x[0])
    found = {
        name: _best(np.concatenate(seen[label(node)]), w) for name, (node, w) in sites.items() if label(node) in seen
    }
    return {name: s for name, s in found.items() if s is not None}


def _best(x: Array, w: Array) -> Floats | None:
    one = np.ones(x.shape[1])
    tried = [one, *(factors(x, w, alpha) for alpha in ALPHAS)]
    losses = [loss(x, w, s) for s in tried]
    best = losses.index(min(losses))
    return tried[best] if best else None


def factors(x: Array, w: Array, alpha: float) -> Floats:
    """Powers of two, [K]; a channel that is zero in X or W stays."""
    mine, theirs = (np.abs(a).max(axis=axis).astype(np.float64) for a, axis in ((x, 0), (w, 1)))
    moved = (mine > 0) & (theirs > 0)
    exponent = alpha * np.log2(np.where(moved, mine, 1)) - (1 - alpha) * np.log2(np.where(moved, theirs, 1))
    powers: Floats = np.exp2(np.rint(np.where(moved, exponent, 0.0)))
    return powers


def loss(x: Array, w: Array, s: Floats) -> float:
    """Squared error of the product when both operands are quantized after smoothing."""
    s = s.astype(np.float32)
    levels, scale = quantize(w * s[:, None], axis=0, limit=FULL)
    smooth = x / s
    step = max(float(smooth.max(initial=0)) - float(smooth.min(initial=0)), 1e-30) / 255
    rounded = np.rint(smooth / step) * np.float32(step)
    difference = rounded @ (levels * scale) - x @ w
    return float((difference.astype(np.float64) ** 2).sum())
