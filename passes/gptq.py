"""GPTQ (Frantar et al., 2022): weights rounded one input at a time, each error made good by the weights still to come.

    y = W x,  W: [N, K];  H = sum of x x' over calibration data, [K, K]
    H^-1 = U' U, U upper triangular;  for k = 0 .. K-1:
        q_k = round(w_k);   W[:, k+1:] -= (w_k - q_k) / U_kk  U[k, k+1:]

Of all roundings, that minimises |(W - Q) X|^2 step by step, where rounding to nearest minimises |W - Q|^2. Scales and
zero points of a block are chosen when its first column is reached, from the weights as they are by then. Columns stay
in their order. An input that was zero throughout the data has no say: its weights are rounded to nearest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dlc.types import Array, Floats

DAMPING = 0.01
"""Share of the mean of H's diagonal that is added to it, the authors' value; inputs that move together need it."""

Grid = Callable[[Array], tuple[Array, Array]]
"""Chooses scale and zero point, [N] each, for a block of weights [N, block]."""


def compensate(w: Array, moments: Floats, block: int, top: int, grid: Grid) -> tuple[Array, Array, Array]:
    """Quantize w: [N, K], K in whole blocks, to q: [N, K / block, block] of 0 .. top; scale, zero: [N, K / block]."""
    n, k = w.shape
    w, u = w.astype(np.float32), _factor(moments)
    q = np.empty((n, k // block, block), np.float32)
    scales, zeros = (np.empty((n, k // block), np.float32) for _ in range(2))
    for b, start in enumerate(range(0, k, block)):
        rest = slice(start + block, None)
        scale, zero = grid(w[:, start : start + block])
        inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
        errors = np.empty((n, block), np.float32)
        for i in range(block):
            column, at = w[:, start + i], start + i
            q[:, b, i] = np.clip(np.floor(column * inverse + zero + np.float32(0.5)), 0, top)
            errors[:, i] = (column - (q[:, b, i] - zero) * scale) / u[at, at]
            w[:, at + 1 : start + block] -= errors[:, i, None] * u[at, at + 1 : start + block]
        w[:, rest] -= errors @ u[start : start + block, rest]
        scales[:, b], zeros[:, b] = scale, zero
    return q, scales, zeros


def _factor(moments: Floats) -> Array:
    """Return U with H^-1 = U' U, damped; double precision: H is close to singular."""
    from scipy.linalg import cholesky, solve_triangular

    h = moments.astype(np.float64)
    diagonal = np.einsum("ii->i", h)
    silent = diagonal == 0
    diagonal += DAMPING * diagonal.mean()
    diagonal[silent] = 1.0
    # H = L L' with rows and columns reversed gives H = R R', R upper; then H^-1 = R^-T R^-1, and U = R^-1.
    upper = cholesky(h[::-1, ::-1], lower=True)[::-1, ::-1]
    return np.asarray(solve_triangular(upper, np.eye(len(h))), np.float32)
