"""Half-quadratic quantization (HQQ; Badri and Shaji, 2023): scales and zero points of blocks, fitted without data.

    min over s, z, e   |e|^p + beta/2 |w - s (q - z) - e|^2,   q = round(w / s + z),  0 < p < 1

in turns: e = shrink(w - s (q - z)), which is large for outliers only; z = mean(q - (w - e) / s) and
s = <q - z, w - e> / <q - z, q - z>, in closed form; beta *= kappa. The norm below 1 lets outliers be, so that the many
other weights are closer than least squares leaves them. A block keeps the best that it came by, by the norm.

The authors fit real zero points and leave scales. The packed form holds whole ones, and those alone never move: on
blocks with outliers none of 512 changed. So scales are fitted too; symmetric blocks are fitted by them only.
"""

from __future__ import annotations

import numpy as np

from dlc.types import Array

P, BETA, KAPPA, TURNS = 0.7, 10.0, 1.01, 20
"""The authors' values."""


def fit(w: Array, scale: Array, zero: Array, bits: int, *, symmetric: bool) -> tuple[Array, Array]:
    """Return better scale and zero, [n] each, for blocks w: [n, block]; zero: whole numbers in 0 .. 2^bits - 1.

    Everything is in units of each block's first step, in which ``BETA`` means the same for every block. A block is done
    with the first turn that does not improve it.
    """
    top, beta = np.float32((1 << bits) - 1), BETA
    steps = w * np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)[:, None]
    s, z = np.ones_like(scale), zero.copy()
    best_s, best_z, live = s.copy(), z.copy(), np.arange(len(w))
    levels = _levels(steps, s, z, top)
    least = _norm(steps - levels * s[:, None])
    for _ in range(TURNS):
        target = steps - _shrink(steps - levels * s[:, None], beta)
        if not symmetric:
            z = np.clip(np.rint((levels + z[:, None] - target / s[:, None]).mean(axis=1)), 0, top)
            levels = _levels(steps, s, z, top)
        s = _scale(levels, target, s)
        levels = _levels(steps, s, z, top)
        better = (norm := _norm(steps - levels * s[:, None])) < least
        live, steps, levels, s, z, least = (each[better] for each in (live, steps, levels, s, z, norm))
        if not live.size:
            break
        best_s[live], best_z[live] = s, z
        beta *= KAPPA
    return scale * best_s, best_z


def _scale(levels: Array, target: Array, s: Array) -> Array:
    """Return the scale of least squares, where it is one."""
    energy = np.square(levels).sum(axis=1)
    fitted = np.divide((levels * target).sum(axis=1), energy, out=s.copy(), where=energy > 0)
    return np.where(fitted > 0, fitted, s)


def _levels(steps: Array, s: Array, z: Array, top: np.float32) -> Array:
    """Return q - z."""
    q = np.clip(np.floor(steps / s[:, None] + z[:, None] + np.float32(0.5)), 0, top)
    return np.asarray(q - z[:, None])


def _norm(error: Array) -> Array:
    return np.asarray((np.abs(error) ** np.float32(P)).sum(axis=1))


def _shrink(x: Array, beta: float) -> Array:
    """Proximal step of the p-norm: sign(x) max(|x| - |x|^(p-1) / beta, 0)."""
    size = np.maximum(np.abs(x), np.float32(1e-8))  # the power of zero is infinite, and its shrunk value zero
    return np.asarray(np.sign(x) * np.maximum(size - size ** np.float32(P - 1) / np.float32(beta), 0))
