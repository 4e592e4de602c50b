"""A runner that remembers what passed through it: a digest of every output, and the sizes that were fed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from dlc.interface import sizes_of
from dlc.runtimes.base import Runner
from dlc.types import Array, Feeds, Outputs


class Witness(Runner):
    """Runs what another runner runs; the other one is opened and closed by its owner."""

    name = "witness"

    def __init__(self, inner: Runner):
        self.inner = inner
        self.interface = inner.interface
        self.sizes: dict[str, tuple[int, int]] = {}
        self._outputs = hashlib.sha256()

    def infer(self, feeds: Feeds) -> Outputs:
        """Run once, and take note."""
        outputs = self.inner.infer(feeds)
        _update(self._outputs, outputs)
        for name, size in sizes_of(self.interface, feeds).items():
            low, high = self.sizes.get(name, (size, size))
            self.sizes[name] = (min(low, size), max(high, size))
        return outputs

    @property
    def digest(self) -> str:
        """SHA-256 of all outputs so far."""
        return self._outputs.hexdigest()


def digest(batches: Iterable[Feeds]) -> str:
    """SHA-256 of every batch."""
    seen = hashlib.sha256()
    for feeds in batches:
        _update(seen, feeds)
    return seen.hexdigest()


def _update(seen: hashlib._Hash, arrays: Mapping[str, Array]) -> None:
    for name, array in arrays.items():
        seen.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        seen.update(np.ascontiguousarray(array).data)
