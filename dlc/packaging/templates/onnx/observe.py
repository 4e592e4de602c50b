"""Statistics of what goes in and comes out, for drift checks. Off unless ``DLC_STATISTICS`` names a file.

The file holds sums over all runs, never a value of its own: per tensor the count, the non-finite, the mean, the
standard deviation, the extremes, and a histogram over ``EDGES``, which are the same for every model, so that two
files compare.
"""

import atexit
import json
import os
from pathlib import Path

import numpy as np

POSITIVE = 2.0 ** np.arange(-20, 20.5, 0.5)
EDGES = np.concatenate([-POSITIVE[::-1], [0.0], POSITIVE])
"""Half-powers of two on both sides of zero; the first bin holds what is below the first edge, the last what is not
below the last."""
EVERY = 1000
"""Runs between two writes; the last one is at exit."""


def observer(variant: str):
    """Return what is called with the feeds and outputs of every run."""
    path = os.environ.get("DLC_STATISTICS")
    if not path:
        return nothing
    statistics = Statistics(variant, Path(path))
    atexit.register(statistics.write)
    return statistics.add


def nothing(_feeds: dict, _outputs: dict) -> None:
    """Observe nothing."""


class Statistics:
    """Sums over runs."""

    def __init__(self, variant: str, path: Path) -> None:
        self.variant, self.path, self.runs, self.tensors = variant, path, 0, {}

    def add(self, feeds: dict, outputs: dict) -> None:
        """Add one run."""
        for role, arrays in (("input", feeds), ("output", outputs)):
            for name, array in arrays.items():
                self.tensors.setdefault((role, name), Sums()).add(np.asarray(array))
        self.runs += 1
        if self.runs % EVERY == 0:
            self.write()

    def write(self) -> None:
        """Replace the file, whole."""
        tensors = [{"role": role, "name": name, **sums.result()} for (role, name), sums in self.tensors.items()]
        content = {"schema": "dlc-statistics/1", "variant": self.variant, "runs": self.runs, "edges": EDGES.tolist(),
                   "tensors": tensors}  # fmt: skip
        scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        scratch.write_text(json.dumps(content) + "\n", encoding="utf-8")
        scratch.replace(self.path)


class Sums:
    """Running sums of one tensor; means and squares are merged as in Chan, Golub and LeVeque (1979)."""

    def __init__(self) -> None:
        self.count = self.odd = 0
        self.mean = self.squares = 0.0
        self.low, self.high = float("inf"), float("-inf")
        self.histogram = np.zeros(len(EDGES) + 1, np.int64)

    def add(self, array: np.ndarray) -> None:
        """Add the elements of one tensor; NaNs and infinities are counted apart."""
        values = array.astype(np.float64).ravel()
        finite = values[np.isfinite(values)]
        self.odd += values.size - finite.size
        if not finite.size:
            return
        count, mean = self.count + finite.size, float(finite.mean())
        apart = mean - self.mean
        self.squares += float(((finite - mean) ** 2).sum()) + apart**2 * self.count * finite.size / count
        self.mean += apart * finite.size / count
        self.count = count
        self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))
        self.histogram += np.bincount(np.searchsorted(EDGES, finite, side="right"), minlength=len(EDGES) + 1)

    def result(self) -> dict:
        """Return what is written; numbers of a tensor without a finite element are null."""
        some = self.count > 0
        return {
            "count": self.count, "non_finite": self.odd,
            "mean": self.mean if some else None, "std": (self.squares / self.count) ** 0.5 if some else None,
            "min": self.low if some else None, "max": self.high if some else None,
            "histogram": self.histogram.tolist(),
        }  # fmt: skip
