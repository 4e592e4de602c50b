"""How far new data has moved from what a model was calibrated on: PSI and KS of inputs and activations.

What is kept of the calibration data is small: of each value at most ``BINS`` bins of about equal mass, between its
least and its largest. Both distances are of shares of elements, whatever their number:

* PSI, the population stability index: sum over ten bins of (new - old) ln(new / old). By custom under 0.1 nothing
  moved, over 0.25 much did (N. Siddiqi, Credit Risk Scorecards, 2006).
* KS, the Kolmogorov-Smirnov distance: the largest difference of the two cumulative shares, at the edges of the bins,
  so it is at most the mass of one bin below the true one. The test's p-value is not given: elements of one example are
  not independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np

from dlc.errors import ArtifactError, RecipeError
from dlc.histogram import Histogram
from dlc.manifest import Record
from dlc.pretty import pretty_json
from dlc.types import Array, Bytes, Floats

STATISTICS = "statistics.json"
SCHEMA: Final = "dlc-statistics/1"
BINS = 64
PSI_BINS = 10


class Drift(Record, frozen=True, kw_only=True):
    """How far data may move, and at which activations to look besides those that are chosen."""

    psi: float = 0.25
    ks: float = 0.2
    activations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.psi < float("inf"):
            raise RecipeError(f"drift psi={self.psi} is no limit: 0.1 is little, 0.25 much")
        if not 0 < self.ks <= 1:
            raise RecipeError(f"drift ks={self.ks} is no limit: it is a difference of shares, up to 1")


class Spread(Record, frozen=True, kw_only=True):
    """The distribution of one value: ``counts`` of elements below, between and above the ``edges``, one more of them.

    A bin holds its lower edge. The first edge is the least value, the last just above the largest: nothing was outside.
    """

    kind: Literal["input", "activation"]
    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Statistics(Record, frozen=True, kw_only=True):
    """``statistics.json``: what calibration data looked like, to inputs and inside ``variant``; and the limits."""

    schema: Literal["dlc-statistics/1"] = SCHEMA
    data: str
    examples: int
    variant: str
    psi: float
    ks: float
    values: Mapping[str, Spread]


@dataclass(frozen=True, slots=True)
class Moved:
    """How far one value moved. ``outside``: share of elements below or above all that calibration saw."""

    value: str
    kind: str
    psi: float
    ks: float
    outside: float
    drifted: bool


class Counter:
    """Counts values in the bins of a spread."""

    nbytes: Bytes = 0

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges = np.array(edges)
        self.counts = np.zeros(len(edges) + 1, np.int64)

    def add(self, values: Array, _: tuple[float, float] = (0.0, 0.0)) -> None:
        """Count finite values."""
        at = np.searchsorted(self._edges, values.reshape(-1), side="right")
        self.counts += np.bincount(at, minlength=len(self.counts))


def spread(seen: Histogram, kind: Literal["input", "activation"]) -> Spread:
    """Cut what a histogram saw, at least one value, into bins of about equal mass."""
    total = int(seen.counts.sum())
    below = np.cumsum(seen.counts)
    cuts = seen.edges[1:][np.searchsorted(below, total * np.arange(1, BINS) / BINS)]
    inner = np.unique(cuts[(cuts > seen.low) & (cuts <= seen.high)])
    edges = np.concatenate([[seen.low], inner, [np.nextafter(seen.high, np.inf)]])
    up_to = np.searchsorted(seen.edges, inner)  # each is an edge of the histogram
    within = np.diff(np.concatenate([[0], below[up_to - 1], [total]]))
    return Spread(kind=kind, edges=tuple(edges.tolist()), counts=(0, *map(int, within), 0))


def moved(name: str, before: Spread, counts: Array, *, psi: float, ks: float) -> Moved:
    """Compare counts of new data, in the bins of what was before."""
    old = np.array(before.counts, np.float64)
    new = counts.astype(np.float64)
    far = float(np.abs(np.cumsum(old) / old.sum() - np.cumsum(new) / new.sum()).max())
    index = _psi(old, new)
    outside = float((new[0] + new[-1]) / new.sum())
    return Moved(name, before.kind, index, far, outside, index > psi or far > ks)


def read(folder: Path) -> Statistics:
    """Read ``statistics.json`` of an artifact; ArtifactError says how to get one."""
    file = folder / STATISTICS
    try:
        return msgspec.json.decode(file.read_bytes(), type=Statistics)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{folder} has no {STATISTICS}: it was compiled without calibration data, or before dlc kept it; compile "
            f"it again with a recipe that has calibration data"
        ) from error
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{file} is damaged or not of schema {SCHEMA}: {error}") from error


def write(folder: Path, statistics: Statistics) -> None:
    """Write ``statistics.json``."""
    (folder / STATISTICS).write_bytes(pretty_json(statistics))


def _psi(old: Floats, new: Floats) -> float:
    """PSI over about ten bins of equal old mass, and one at either side for what was never seen.

    Half an element is added to every bin: an empty one would make the index infinite.
    """
    inner = old[1:-1]
    at = np.minimum((np.cumsum(inner) - inner) * PSI_BINS // inner.sum(), PSI_BINS - 1).astype(int)
    _, at = np.unique(at, return_inverse=True)
    bins = np.concatenate([[0], at + 1, [at.max() + 2]])
    a, b = (np.bincount(bins, weights=side) + 0.5 for side in (old, new))
    p, q = a / a.sum(), b / b.sum()
    return float(((q - p) * np.log(q / p)).sum())
