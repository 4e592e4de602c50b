"""How far data has moved from what a model was calibrated on: inputs, activations and outputs.

What is kept of the calibration data is small: of each value at most ``BINS`` bins of about equal mass, between its
least and its largest. ``dlc.distances`` says how two of them are compared. What a packaged runner observes is of the
same schema, in the same bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec
import numpy as np

from dlc import distances
from dlc.errors import ArtifactError, RecipeError
from dlc.histogram import Histogram
from dlc.manifest import Record
from dlc.pretty import pretty_json
from dlc.types import Array, Bytes

STATISTICS = "statistics.json"
SCHEMA: Final = "dlc-statistics/1"
BINS = 64
Kind: TypeAlias = Literal["input", "activation", "output"]


class Drift(Record, frozen=True, kw_only=True):
    """How far data may move, and at which activations to look besides those that are chosen."""

    psi: float = distances.PSI
    ks: float = distances.KS
    activations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.psi < float("inf"):
            raise RecipeError(f"drift psi={self.psi} is no limit: 0.1 is little, 0.25 much")
        if not 0 < self.ks <= 1:
            raise RecipeError(f"drift ks={self.ks} is no limit: it is a difference of shares, up to 1")


class Spread(Record, frozen=True, kw_only=True):
    """The distribution of one value: ``counts`` of elements below, between and above the ``edges``, one more of them.

    A bin holds its lower edge. Of calibration data the first edge is the least value, the last just above the largest:
    nothing was outside. ``non_finite``: how many elements were NaN, counted as above, or infinite.
    """

    kind: Kind
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    non_finite: int = 0

    def __post_init__(self) -> None:
        if len(self.edges) < 2 or len(self.counts) != len(self.edges) + 1:
            raise ValueError(f"{len(self.counts)} counts do not fit {len(self.edges)} edges")
        if not all(a < b for a, b in pairwise(self.edges)):
            raise ValueError("edges do not ascend")
        if min(self.counts) < 0 or not any(self.counts):
            raise ValueError("counts are negative, or all 0")


class Statistics(Record, frozen=True, kw_only=True):
    """``statistics.json``: what data looked like, to inputs and inside ``variant`` of ``model``; and the limits.

    ``data``: the name of the calibration data, or ``OBSERVED``.
    """

    schema: Literal["dlc-statistics/1"] = SCHEMA
    model: str = ""
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
        self.counts += distances.count(self._edges, values)


def spread(seen: Histogram, kind: Kind) -> Spread:
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
    old = np.array(before.counts)
    index, far = distances.psi(old, counts), distances.ks(old, counts)
    return Moved(name, before.kind, index, far, distances.outside(counts), index > psi or far > ks)


def read(folder: Path) -> Statistics:
    """Read ``statistics.json`` of an artifact; ArtifactError says how to get one."""
    if not (folder / STATISTICS).exists():
        raise ArtifactError(
            f"{folder} has no {STATISTICS}: it was compiled without calibration data, or before dlc kept it; compile "
            f"it again with a recipe that has calibration data"
        )
    return load(folder / STATISTICS)


def load(file: Path) -> Statistics:
    """Read a file of statistics; ArtifactError if it is not there, damaged, or of another schema."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Statistics)
    except OSError as error:
        raise ArtifactError(f"{file}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ArtifactError(f"{file} is damaged or not of schema {SCHEMA}: {error}") from error


def write(folder: Path, statistics: Statistics) -> None:
    """Write ``statistics.json``."""
    (folder / STATISTICS).write_bytes(pretty_json(statistics))
