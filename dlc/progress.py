"""How long work tells that it goes on. The command line draws it; a library call is silent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Told of each stage as it starts, and of each step within it."""

    def stage(self, name: str, steps: int | None = None) -> None:
        """Start a stage; ``steps`` is the number of ``advance`` calls to come, if known."""

    def advance(self) -> None:
        """One step of the current stage is done."""


class Silent:
    """Tells nobody."""

    def stage(self, name: str, steps: int | None = None) -> None:
        """Start a stage."""

    def advance(self) -> None:
        """One step is done."""


def track(progress: Progress, items: Iterable[T]) -> Iterator[T]:
    """Yield the items, one step each."""
    for item in items:
        yield item
        progress.advance()
