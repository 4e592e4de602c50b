"""Counts of elements in bins, and how far two of them lie apart: PSI and KS.

Packages for Python hold a copy of this file, so that their ``drift.py`` and ``dlc data check`` say the same numbers. It
needs numpy alone. Both distances are of shares of elements, whatever their number:

* PSI, the population stability index: sum over ten bins of (new - old) ln(new / old). By custom under 0.1 nothing
  moved, over 0.25 much did (N. Siddiqi, Credit Risk Scorecards, 2006).
* KS, the Kolmogorov-Smirnov distance: the largest difference of the two cumulative shares, at the edges of the bins,
  so it is at most the mass of one bin below the true one. The test's p-value is not given: elements of one example are
  not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

PSI, KS = 0.25, 0.2
"""How far data may move where nothing else is stated."""
PSI_BINS = 10


def count(edges: Sequence[float] | npt.NDArray[Any], values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Count how many elements lie below, between and above ascending edges, [len(edges) + 1].

    A bin holds its lower edge. NaN counts as above.
    """
    at = np.searchsorted(edges, values.reshape(-1), side="right")
    return np.bincount(at, minlength=len(edges) + 1)


def psi(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> float:
    """PSI over about ten bins of equal old mass, and one at either side for what lies outside the edges.

    Half an element is added to every bin: an empty one would make the index infinite.
    """
    inner = old[1:-1]
    at = np.minimum((np.cumsum(inner) - inner) * PSI_BINS // max(inner.sum(), 1), PSI_BINS - 1).astype(int)
    _, at = np.unique(at, return_inverse=True)
    bins = np.concatenate([[0], at + 1, [at.max() + 2]])
    a, b = (np.bincount(bins, weights=side) + 0.5 for side in (old, new))
    p, q = a / a.sum(), b / b.sum()
    return float(((q - p) * np.log(q / p)).sum())


def ks(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> float:
    """Return the largest difference of the cumulative shares; each side has at least one element."""
    return float(np.abs(np.cumsum(old) / old.sum() - np.cumsum(new) / new.sum()).max())


def outside(new: npt.NDArray[Any]) -> float:
    """Return the share of elements below the first or above the last edge."""
    return float((new[0] + new[-1]) / new.sum())
