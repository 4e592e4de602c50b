"""What every runtime is: a context manager that checks feeds and runs them."""

from __future__ import annotations

import abc
from types import TracebackType
from typing import ClassVar, Self

import numpy as np

from dlc.errors import DataError
from dlc.interface import Interface
from dlc.types import Feeds, Outputs


class Runner(abc.ABC):
    """Runs one model. Resources are taken in ``__enter__`` and given back in ``__exit__``."""

    name: ClassVar[str]
    interface: Interface

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, feeds: Feeds) -> Outputs:
        """Check the feeds against the interface (DataError) and run them once."""
        self.interface.check_feeds(feeds)
        return self.infer(feeds)

    def open(self) -> None:
        """Take what running needs."""

    def close(self) -> None:
        """Give it back."""

    @abc.abstractmethod
    def infer(self, feeds: Feeds) -> Outputs:
        """Run checked feeds once; nothing but the run itself, for it is timed."""


def check_finite(feeds: Feeds, where: str) -> None:
    """Raise DataError if a floating-point feed holds a NaN or an infinity."""
    for name, array in feeds.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"{where}: input {name!r} holds NaN or infinity; clean the data or drop the example")
