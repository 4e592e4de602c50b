"""The bias-corrected and accelerated bootstrap (B. Efron, J. Am. Stat. Assoc. 82, 1987): intervals, and their inverse.

With the draws' distribution G, the share z0 of draws below the estimate as a normal quantile, and the skewness of the
leave-out values as acceleration a, the limit at level q is

    G^-1( Phi( z0 + (z0 + z_q) / (1 - a (z0 + z_q)) ) )

Without bias and skewness these are the percentiles of the draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dlc.manifest import Estimate
from dlc.types import Floats

LEVELS = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Draws:
    """An estimate, its bootstrap draws [r], and its values with a group of examples left out [g]."""

    value: float
    draws: Floats
    left_out: Floats

    def interval(self, levels: tuple[float, float] = LEVELS) -> Estimate:
        """Return the estimate with its interval, widened to hold the estimate itself where draws are few or tied."""
        from scipy.special import ndtr, ndtri

        bias, acceleration = self._bias(), self._acceleration()
        z = bias + ndtri(levels)
        low, high = np.quantile(self.draws, ndtr(bias + z / (1 - acceleration * z)))
        return Estimate(value=self.value, low=min(float(low), self.value), high=max(float(high), self.value))

    def chance_below(self, bound: float) -> float:
        """Return the level at which the lower limit is ``bound``: a one-sided p-value that the truth is below it.

        Draws that equal the bound count half; no level is below half a draw.
        """
        from scipy.special import ndtr, ndtri

        bias, acceleration = self._bias(), self._acceleration()
        w = ndtri(self._share(bound)) - bias
        return float(ndtr(w / (1 + acceleration * w) - bias))

    def _share(self, bound: float) -> float:
        """Share of draws below a bound, kept off 0 and 1, at which a normal quantile is infinite."""
        below = float((self.draws < bound).mean() + (self.draws == bound).mean() / 2)
        return min(max(below, 0.5 / len(self.draws)), 1 - 0.5 / len(self.draws))

    def _bias(self) -> float:
        from scipy.special import ndtri

        return float(ndtri(self._share(self.value)))

    def _acceleration(self) -> float:
        if len(self.left_out) == 0:
            return 0.0
        away = self.left_out.mean() - self.left_out
        spread = float((away**2).sum())
        return float((away**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
