"""How far to smooth each normalised activation, by what quantization does to the products that read it.

    s_j = max|X_j|^a / max|W_j|^(1 - a),  rounded to a power of two        X: rows of the activation, [n, K], W: [K, N]

a is the one, of ``ALPHAS``, of the least ``||Q(X / s) Q(s W) - X W||^2``: Q is 8 bits, one range for all of X and one
for each column of W; an activation for which no a is better than no smoothing gets no factors.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from dlc.calibration import MAX_RAM
from dlc.moments import readable
from dlc.observe import Batches, observe
from dlc.passes.quantize_dynamic import FULL, quantize
from dlc.passes.smooth_quant import SmoothQuant, readers
from dlc.types import Array, Bytes, Floats

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
SAMPLE = 1024
"""Rows of the data that are looked at."""


class Rows:
    """At most ``SAMPLE`` of all rows seen, each as likely as any other: those that drew the smallest numbers."""

    def __init__(self, width: int, seed: int) -> None:
        self.nbytes: Bytes = SAMPLE * width * np.dtype(np.float32).itemsize
        self.rows: Array = np.empty((0, width), np.float32)
        self._drawn: Floats = np.empty(0)
        self._rng = np.random.default_rng(seed)

    def add(self, values: Array, _: tuple[float, float]) -> None:
        """Draw a number for each row."""
        new = values.reshape(-1, values.shape[-1])
        drawn = np.concatenate([self._drawn, self._rng.random(len(new))])
        kept = np.sort(np.argsort(drawn, kind="stable")[:SAMPLE])
        old = kept[kept < len(self.rows)]
        self.rows = np.concatenate([self.rows[old], new[kept[len(old) :] - len(self.rows)]])
        self._drawn = drawn[kept]


def smoothing(
    model: ir.Model, batches: Batches, *, threads: int = 1, seed: int = 0, max_ram: Bytes = MAX_RAM
) -> dict[str, Floats]:
    """Return the factors for :class:`SmoothQuant`, by the name of the value."""
    weights = {}
    for node in SmoothQuant().candidates(model.graph):
        products = readers(node)
        if not isinstance(products, str) and all(readable(each.node) for each in products):
            each = [p.weight.T if p.node.attributes.get_int("transB", 0) else p.weight for p in products]
            weights[str(node.outputs[0].name)] = np.concatenate(each, axis=1)
    wanted = {name: partial(_observers, w.shape[0], seed) for name, w in weights.items()}
    seen = observe(model, batches, wanted, threads=threads, max_ram=max_ram)
    samples: dict[str, Array] = {name: each.rows for name, [each] in seen.of.items()}
    found = {name: _best(samples[name], w) for name, w in weights.items() if len(samples[name])}
    return {name: s for name, s in found.items() if s is not None}


def _observers(width: int, seed: int) -> list[Rows]:
    return [Rows(width, seed)]


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
