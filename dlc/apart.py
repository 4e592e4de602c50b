"""How far one tensor is from another, summed up piece by piece: its extremes, and the energy of signal and noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dlc.harness.agreement import SQNR_MAX
from dlc.types import Array, Floats

PIECE = 1 << 16
"""Elements taken at a time, so that FP64 copies stay small."""


@dataclass(frozen=True, slots=True)
class Apart:
    """``max_abs``: largest difference; ``relative``: as a share of the reference's largest magnitude.

    ``sqnr_db``: energy of the reference over energy of the difference. ``odd``: elements that are NaN or infinite on
    one side, and not the same on the other; they count in nothing else, and make the SQNR its least.
    """

    sqnr_db: float
    max_abs: float
    relative: float
    cosine: float
    odd: int


@dataclass(slots=True)
class Meter:
    """Sums over everything that was added."""

    largest: float = 0.0
    max_abs: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    energy: float = 0.0
    dot: float = 0.0
    odd: int = 0

    def add(self, expected: Array, got: Array) -> None:
        """Add two arrays of equal shape."""
        one, other = expected.reshape(-1), got.reshape(-1)
        for start in range(0, one.size, PIECE):
            self._add(one[start : start + PIECE], other[start : start + PIECE])

    def _add(self, expected: Array, got: Array) -> None:
        x, y = expected.astype(np.float64), got.astype(np.float64)
        finite = np.isfinite(x) & np.isfinite(y)
        if not finite.all():
            self.odd += int(((x != y) & ~(np.isnan(x) & np.isnan(y)) & ~finite).sum())
            x, y = x[finite], y[finite]
        difference = x - y
        self.largest = max(self.largest, float(np.abs(x).max(initial=0.0)))
        self.max_abs = max(self.max_abs, float(np.abs(difference).max(initial=0.0)))
        self.signal += _dot(x, x)
        self.energy += _dot(y, y)
        self.noise += _dot(difference, difference)
        self.dot += _dot(x, y)

    def result(self) -> Apart:
        """Sum up; two zero tensors agree."""
        lengths = math.sqrt(self.signal) * math.sqrt(self.energy)
        cosine = 1.0 if self.noise == 0 else min(1.0, max(-1.0, self.dot / lengths)) if lengths > 0 else 0.0
        relative = self.max_abs / max(self.largest, float(np.finfo(np.float32).tiny)) if self.max_abs else 0.0
        return Apart(self._sqnr_db(), self.max_abs, relative, cosine, self.odd)

    def _sqnr_db(self) -> float:
        if self.odd:
            return -SQNR_MAX
        if self.noise <= self.signal * 10 ** (-SQNR_MAX / 10):
            return SQNR_MAX
        return max(-SQNR_MAX, 10 * math.log10(self.signal / self.noise)) if self.signal > 0 else -SQNR_MAX


def _dot(x: Floats, y: Floats) -> float:
    """Sum the products in this thread: BLAS wakes others for so few, and waits for them on a machine that is busy."""
    return float(np.einsum("i,i->", x, y))
