"""Near duplicates between data sets: the same scan re-encoded, the same sentence padded otherwise.

What is kept of an example is a few hundred bytes. Of its floats: each input without its mean and at deviation 1, whose
elements, with random signs, are added up into 64 sums. Distances survive that within 9 % (W. Johnson and
J. Lindenstrauss, 1984: 1/sqrt(2 * 64)). Of its tokens: 128 min-hashes of the runs of three (A. Broder, 1997), of which
two examples share as large a part as of their runs, within 4.4 points.

How close unrelated examples lie depends on the data: two scans of a digit are closer than any two photographs. So the
limit is a quarter of the median distance to the nearest other example of the same set. Measured, as multiples of that
median: distinct digits are 0.32 apart at least, photographs 0.60; noise of 0.02 on a digit moves it by 0.15 (0.23 at
most), JPEG at quality 75 a photograph by 0.10 (0.25 at most).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dlc.types import Array, Floats

SUMS = 64
HASHES = 128
RUN = 3
BAND = 4
"""Min-hashes that must be equal together for two examples to be compared: missed at a likeness of 0.8 once in 2e7."""
ALIKE = 0.8
"""Share of runs of tokens that near duplicates have in common: one token of 30 replaced, or the padding."""
CLOSER = 0.25
"""Share of the median distance to the nearest other example below which two are near duplicates."""
MOST = 10_000
"""Examples of a set whose floats are compared, evenly chosen: about 10 GFLOP at most, a second or two."""
SEED = 20
_ODD = np.random.default_rng(SEED).integers(0, 2**63, (2, HASHES), np.uint64) * np.uint64(2) + np.uint64(1)
_PLACES = np.random.default_rng(SEED + 1).integers(0, 2**63, RUN + 1, np.uint64) * np.uint64(2) + np.uint64(1)


@dataclass(slots=True)
class Signatures:
    """What is kept of each example: sums [64], and min-hashes [128]; either is all zero where there is nothing."""

    sums: list[Array] = field(default_factory=list)
    hashes: list[Array] = field(default_factory=list)

    def add(self, rows: Mapping[str, Array], count: int) -> None:
        """Add a batch of so many examples: of each input one row per example, [count, ...]."""
        sums, hashes = np.zeros((count, SUMS)), np.zeros((count, HASHES), np.uint32)
        tokens: list[list[Array]] = [[] for _ in range(count)]
        for index, (_, array) in enumerate(sorted(rows.items())):
            flat = array.reshape(count, -1)
            if array.dtype.kind == "f":
                sums += _sums(flat, index)
            elif array.dtype.kind in "iu" and flat.size and flat.max() > 1:  # masks say nothing
                for of, row in zip(tokens, flat, strict=True):
                    of.append(_runs(row, index))
        for row, runs in zip(hashes, tokens, strict=True):
            if runs:
                row[:] = _minima(np.concatenate(runs))
        self.sums.append(sums.astype(np.float32))
        self.hashes.append(hashes)


def near(calibration: Signatures, evaluation: Signatures) -> Array:
    """Tell which examples of the first have a near duplicate in the second, [n].

    An example with floats and tokens needs a near one in both.
    """
    mine, other = (tuple(map(np.concatenate, (s.sums, s.hashes))) for s in (calibration, evaluation))
    floats, tokens = mine[0].any(axis=1), mine[1].any(axis=1)
    found: Array = np.logical_or(floats, tokens)
    if floats.any():
        found &= ~floats | _close(mine[0], other[0])
    if tokens.any():
        found &= ~tokens | _alike(mine[1], other[1])
    return found


def _sums(rows: Array, index: int) -> Floats:
    values = rows.astype(np.float64)
    values -= values.mean(axis=1, keepdims=True)
    spread = np.sqrt((values**2).sum(axis=1, keepdims=True))
    values /= np.where(spread > 0, spread, 1.0)
    n = values.shape[1]
    signs = np.where(np.random.default_rng((SEED, index)).random(n) < 0.5, -1.0, 1.0)
    padded = np.zeros((len(values), -(-n // SUMS) * SUMS))
    padded[:, :n] = values * signs
    sums: Floats = padded.reshape(len(values), -1, SUMS).sum(axis=1)
    return sums


def _close(mine: Array, other: Array) -> Array:
    """Tell which rows are closer to one of the others than those are to each other."""
    theirs = _thinned(other[other.any(axis=1)])
    close = np.zeros(len(mine), dtype=bool)
    if len(theirs) < 2:
        return close
    limit = CLOSER * float(np.median(_nearest(theirs, theirs, itself=True)))
    at = _thinned(np.flatnonzero(mine.any(axis=1)))
    close[at] = _nearest(mine[at], theirs) < limit
    return close


def _nearest(rows: Array, others: Array, *, itself: bool = False) -> Floats:
    """Distance to the nearest of the others, [n]; ``itself``: they are the rows, and each is passed over."""
    nearest = np.empty(len(rows))
    squares = (others**2).sum(axis=1)
    for start in range(0, len(rows), 512):
        part = rows[start : start + 512]
        apart = (part**2).sum(axis=1)[:, None] + squares - 2 * part @ others.T
        if itself:
            apart[np.arange(len(part)), start + np.arange(len(part))] = np.inf
        nearest[start : start + 512] = np.sqrt(np.maximum(apart.min(axis=1), 0.0))
    return nearest


def _thinned(rows: Array) -> Array:
    if len(rows) <= MOST:
        return rows
    chosen: Array = rows[np.linspace(0, len(rows) - 1, MOST).round().astype(int)]
    return chosen


def _runs(row: Array, index: int) -> Array:
    """Hash the runs of three tokens, each once; what pads the end counts as one token."""
    last = np.flatnonzero(row != row[-1])
    kept = row[: last[-1] + 2 if len(last) else 1].astype(np.uint64)
    kept = np.concatenate([kept, np.full(max(0, RUN - len(kept)), kept[-1])])
    windows = np.lib.stride_tricks.sliding_window_view(kept, RUN)
    mixed = (windows * _PLACES[:RUN]).sum(axis=1, dtype=np.uint64) + np.uint64(index) * _PLACES[RUN]
    return np.unique(mixed)


def _minima(runs: Array) -> Array:
    mixed = (runs ^ (runs >> np.uint64(29)))[:, None] * _ODD[0] + _ODD[1]
    minima: Array = (mixed >> np.uint64(32)).min(axis=0).astype(np.uint32)
    return minima


def _alike(mine: Array, other: Array) -> Array:
    """Tell which rows share enough min-hashes with one of the others; only those that share a band are compared."""
    alike = np.zeros(len(mine), dtype=bool)
    for band in range(0, HASHES, BAND):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for index, hashes in enumerate(other[:, band : band + BAND]):
            buckets[hashes.tobytes()].append(index)
        for row in np.flatnonzero(~alike).tolist():
            if rivals := buckets.get(mine[row, band : band + BAND].tobytes(), [])[:MOST]:
                alike[row] = bool(((other[rivals] == mine[row]).mean(axis=1) >= ALIKE).any())
    return alike
