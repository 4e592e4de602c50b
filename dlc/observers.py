"""What calibration keeps of a value besides its range: the mean of each channel, and ranges of each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dlc.histogram import Extremes, extremes_of
from dlc.types import Array, Bytes, Floats


class ChannelMeans:
    """The mean of each channel, counted along ``axis``."""

    nbytes: Bytes = 0

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._sum: Floats | None = None
        self._count = 0

    def add(self, values: Array, _: tuple[float, float]) -> None:
        """Add up values, pairwise within an example, and in double precision over examples."""
        rows = _by_channel(values, self._axis)  # [b, C, n]
        total = rows.sum(axis=2).sum(axis=0, dtype=np.float64)
        self._sum = total if self._sum is None else self._sum + total
        self._count += rows.shape[0] * rows.shape[2]

    @property
    def mean(self) -> Floats | None:
        """Mean of each channel, [C]; None before any value."""
        return None if self._sum is None else self._sum / self._count


class PerChannel:
    """An observer for each channel along ``axis``; their number is that of the first batch."""

    def __init__(self, axis: int, channels: int, make: Callable[[], Extremes]) -> None:
        self._axis = axis
        self.of = [make() for _ in range(channels)]
        self.nbytes: Bytes = sum(each.nbytes for each in self.of)

    def add(self, values: Array, _: tuple[float, float]) -> None:
        """Show each channel to its observer."""
        rows = np.moveaxis(_by_channel(values, self._axis), 1, 0)  # [C, b, n]
        for each, row in zip(self.of, rows, strict=True):
            flat = row.reshape(-1)
            each.add(flat, extremes_of(flat))


def _by_channel(values: Array, axis: int) -> Array:
    """View an array as [before, C, after]."""
    at = axis % values.ndim
    before, after = int(np.prod(values.shape[:at])), int(np.prod(values.shape[at + 1 :]))
    return values.reshape(before, values.shape[at], after)
