"""Learned rounding: which way each weight is rounded, so that what it multiplies comes out right.

    minimise  E ||W x - (s * Q) x||^2  =  tr (W - s * Q) H (W - s * Q)^T,   H = E[x x^T]   Q integer, low <= Q <= high

W: [G, M, K], s: one for each output or, in blocks, for each weight, H: [G, K, K]; G groups of a convolution, M outputs
and K inputs of each. Scales are those of the weights as they came, so that inputs may be taken in any order, whatever
blocks they lie in. Rounding to nearest
minimises ``||W - s Q||``, as if the inputs were unrelated and of one size. Here weights are rounded one input after the
other, the largest first, and the ones to come make up for the error (Frantar et al., 2022, "GPTQ"; the aim is that of
AdaRound, Nagel et al., 2020):

    e_j = (w_j - s_j q_j) / U_jj,   w_k -= e_j U_jk  for k > j,       U^T U = (H + d I)^-1, U upper triangular

The error is a sum over outputs, so an output for which that is no better keeps what rounding to nearest gives: the
result is never worse, by the H that it is given.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack

from dlc.types import Array, Floats

DAMPING = 0.01
"""Added to H, in units of its mean diagonal; inputs that the data never moved must not blow up its inverse."""
BLOCK = 64
"""Inputs whose errors are collected before the weights behind them are changed: one product in place of many sums."""
AT_ONCE = 1 << 22
"""Weights of a group that are rounded at a time, which bounds memory: one output knows nothing of another."""


@dataclass(frozen=True, slots=True)
class Moments:
    """``second``: H, [G, K, K]; ``mean``: mu, [G, K]. What was learned from them is remembered: a search asks often."""

    second: Floats
    mean: Floats
    _known: dict[Hashable, npt.NDArray[np.int8]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def covariance(self) -> Floats:
        """What is left of H when the mean error is made up for by a bias."""
        return self.second - self.mean[:, :, None] * self.mean[:, None, :]

    def round(self, weight: Array, scales: Array, limit: int, *, centred: bool = False) -> npt.NDArray[np.int8]:
        """Learn levels [G, M, K]; ``centred``: of what is left when a bias makes up for the mean error."""
        key = (sha256(weight.tobytes()).digest(), scales.tobytes(), weight.shape, limit, centred)
        if key not in self._known:
            self._known[key] = learn_rounding(weight, scales, self.covariance if centred else self.second, limit)
        return self._known[key]


def learn_rounding(weight: Array, scales: Array, moment: Floats, limit: int) -> npt.NDArray[np.int8]:
    """Return levels [G, M, K] for weights [G, M, K] at scales [G, M], given second moments [G, K, K] of the inputs."""
    ends = np.float64(limit)
    return learn_levels(weight, scales[..., None], moment, -ends, ends).astype(np.int8)


def learn_levels(
    weight: Array, scales: Array, moment: Floats, low: Array | np.float64, high: Array | np.float64
) -> Floats:
    """Return levels [G, M, K] from ``low`` to ``high``; these and ``scales`` are broadcast to the weights' shape."""
    s, low, high = (np.broadcast_to(each, weight.shape) for each in (scales, low, high))
    if not moment.any():
        return _nearest(weight.astype(np.float64), s, low, high)
    order = np.argsort(-np.diagonal(moment, axis1=1, axis2=2), axis=1, kind="stable")  # [G, K]
    upper = _factor(np.take_along_axis(np.take_along_axis(moment, order[:, :, None], 1), order[:, None, :], 2))
    rows = max(1, AT_ONCE // max(1, weight.shape[-1]))
    parts = [np.s_[:, i : i + rows] for i in range(0, max(1, weight.shape[1]), rows)]
    return np.concatenate([_learned(weight[p], s[p], moment, low[p], high[p], order, upper) for p in parts], axis=1)


def _learned(
    weight: Array, scales: Array, moment: Floats, low: Array, high: Array, order: Array, upper: Floats
) -> Floats:
    """Levels of some outputs; ``upper`` is the factor of ``moment`` with its inputs in ``order``."""
    w, s = weight.astype(np.float64), scales.astype(np.float64)
    nearest = _nearest(w, s, low, high)

    def first_inputs_first(each: Array) -> Array:  # [G, M, K] to [G, K, M], in order
        return np.ascontiguousarray(np.swapaxes(np.take_along_axis(each, order[:, None, :], 2), 1, 2))

    permuted = _compensated(upper, *map(first_inputs_first, (w, s, low, high)))
    learned = np.take_along_axis(np.swapaxes(permuted, 1, 2), np.argsort(order, axis=1)[:, None, :], 2)
    better = rounding_error(w, learned * s, moment) < rounding_error(w, nearest * s, moment)  # [G, M]
    return np.where(better[..., None], learned, nearest)


def _nearest(w: Floats, s: Array, low: Array, high: Array) -> Floats:
    levels: Floats = np.clip(np.rint(w / s), low, high)
    return levels


def rounding_error(weight: Floats, rounded: Floats, moment: Floats) -> Floats:
    """Mean squared error of each output, [G, M]."""
    difference = rounded - weight
    error: Floats = ((difference @ moment) * difference).sum(axis=-1)
    return error


def _factor(moment: Floats) -> Floats:
    """Upper triangular U with ``U^T U = (H + d I)^-1``, [G, K, K].

    With H = R R^T, R upper triangular (Cholesky's factor of H read backwards), ``U = R^-1``.
    """
    mean = np.trace(moment, axis1=1, axis2=2)[:, None, None] / moment.shape[-1]
    size = np.where(mean > 0, mean, 1)  # a group that saw only zeros; the scale of U cancels in the updates
    lower = np.linalg.cholesky((moment / size + DAMPING * np.eye(moment.shape[-1]))[:, ::-1, ::-1])
    return np.stack([lapack.dtrtri(each[::-1, ::-1])[0] for each in lower])


def _compensated(upper: Floats, w: Floats, s: Floats, low: Array, high: Array) -> Floats:
    """Round input after input; all are [G, K, M]: in memory, all outputs of one input lie together."""
    levels, size = np.empty_like(w), w.shape[1]
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        errors = np.empty_like(w[:, start:stop])
        for j in range(start, stop):
            levels[:, j] = _nearest(w[:, j], s[:, j], low[:, j], high[:, j])
            errors[:, j - start] = error = (w[:, j] - levels[:, j] * s[:, j]) / upper[:, j, j, None]
            w[:, j + 1 : stop] -= upper[:, j, j + 1 : stop, None] * error[:, None, :]
        w[:, stop:] -= np.swapaxes(upper[:, start:stop, stop:], 1, 2) @ errors
    return levels
