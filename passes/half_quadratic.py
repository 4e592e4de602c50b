"""Half-quadratic quantization (HQQ; Badri and Shaji, 2023): zero points of blocks, fitted without data.

    min over z, e   |e|^p + beta/2 |w - dequantize(q) - e|^2,   q = round(w / s + z),  0 < p < 1

in turns: e = shrink(w - s (q - z)), which is large for outliers only; z = mean(q - (w - e) / s), in closed form;
beta *= kappa. The norm below 1 lets outliers be, so that the many other weights are closer than least squares leaves
them. Scales stay. The zero point of a block is rounded in each turn: the packed form holds integers. A block that no
turn improves, by the sum of |error|^p, keeps what it had.
"""

from __future__ import annotations

import numpy as np

from dlc.types import Array

P, BETA, KAPPA, TURNS = 0.7, 10.0, 1.01, 20
"""The authors' values."""


def fit_zero_points(w: Array, scale: Array, zero: Array, bits: int) -> Array:
    """Return better zero points for blocks w: [n, block] with scale and zero: [n]; whole numbers in 0 .. 2^bits - 1.

    They are fitted in units of each block's step, in which ``BETA`` means the same for every block.
    """
    top, beta = np.float32((1 << bits) - 1), BETA
    steps = w * np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)[:, None]
    best, z = zero.copy(), zero
    error, q = _rounded(steps, z, top)
    least = _norm(error)
    for _ in range(TURNS):
        outliers = _shrink(error, beta)
        z = np.clip(np.rint((q - (steps - outliers)).mean(axis=1)), 0, top)
        error, q = _rounded(steps, z, top)
        better = (norm := _norm(error)) < least
        best[better], least[better] = z[better], norm[better]
        beta *= KAPPA
    return best


def _rounded(steps: Array, zero: Array, top: np.float32) -> tuple[Array, Array]:
    """Return steps - (q - zero), and q."""
    q = np.clip(np.floor(steps + zero[:, None] + np.float32(0.5)), 0, top)
    return steps - (q - zero[:, None]), q


def _norm(error: Array) -> Array:
    return np.asarray((np.abs(error) ** np.float32(P)).sum(axis=1))


def _shrink(x: Array, beta: float) -> Array:
    """Proximal step of the p-norm: sign(x) max(|x| - |x|^(p-1) / beta, 0)."""
    size = np.maximum(np.abs(x), np.float32(1e-8))  # the power of zero is infinite, and its shrunk value zero
    return np.asarray(np.sign(x) * np.maximum(size - size ** np.float32(P - 1) / np.float32(beta), 0))
