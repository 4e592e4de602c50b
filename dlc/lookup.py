"""Tables of ``"module:attribute"`` strings: nothing is imported until it is chosen."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any


def load(path: str) -> Any:
    """Import what ``"package.module:attribute"`` names."""
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


def named(word: str, names: Iterable[str]) -> list[str]:
    """Return the names that a word stands for: ``attention`` is short for ``fuse-attention``."""
    return [name for name in names if word in (name, name.partition("-")[2])]
