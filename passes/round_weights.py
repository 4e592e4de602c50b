"""Learned rounding: which way each weight is rounded, so that what it multiplies comes out right.

    minimise  E ||W x - s Q x||^2  =  tr (W - s Q) H (W - s Q)^T,   H = E[x x^T]       Q integer, |Q| <= limit

W: [G, M, K], s: [G, M], H: [G, K, K]; G groups of a convolution, M outputs and K inputs of each. Rounding to nearest
minimises ``||W - s Q||``, as if the inputs were unrelated and of one size. Here weights are rounded one input after the
other, the largest first, and the ones to come make up for the error (Frantar et al., 2022, "GPTQ"; the aim is that of
AdaRound, Nagel et al., 2020):

    e_j = (w_j - s q_j) / U_jj,   w_k -= e_j U_jk  for k > j,       U^T U = (H + d I)^-1, U upper triangular

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
    w, s = weight.astype(np.float64), scales.astype(np.float64)[..., None]  # [G, M, 1]
    nearest = np.clip(np.rint(w / s), -limit, limit)
    if not moment.any():
        return nearest.astype(np.int8)
    order = np.argsort(-np.diagonal(moment, axis1=1, axis2=2), axis=1, kind="stable")  # [G, K]
    h = np.take_along_axis(np.take_along_axis(moment, order[:, :, None], 1), order[:, None, :], 2)
    permuted = _compensated(np.take_along_axis(w, order[:, None, :], 2), s, _factor(h), limit)
    learned = np.take_along_axis(permuted, np.argsort(order, axis=1)[:, None, :], 2)
    better = rounding_error(w, learned * s, moment) < rounding_error(w, nearest * s, moment)  # [G, M]
    return np.where(better[..., None], learned, nearest).astype(np.int8)


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


def _compensated(w: Floats, s: Floats, upper: Floats, limit: int) -> Floats:
    """Round input after input; levels [G, M, K]. In memory inputs come first: all outputs of one are used at once."""
    w, s = np.ascontiguousarray(np.swapaxes(w, 1, 2)), s[..., 0]  # [G, K, M], [G, M]
    levels, size = np.empty_like(w), w.shape[1]
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        errors = np.empty_like(w[:, start:stop])
        for j in range(start, stop):
            levels[:, j] = np.clip(np.rint(w[:, j] / s), -limit, limit)
            errors[:, j - start] = error = (w[:, j] - levels[:, j] * s) / upper[:, j, j, None]
            w[:, j + 1 : stop] -= upper[:, j, j + 1 : stop, None] * error[:, None, :]
        w[:, stop:] -= np.swapaxes(upper[:, start:stop, stop:], 1, 2) @ errors
    return np.swapaxes(levels, 1, 2)
