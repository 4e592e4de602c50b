"""Times and sizes as users write them: ``10min``, ``5ms``, ``8MB``."""

from __future__ import annotations

import re

from dlc.errors import RecipeError
from dlc.types import Bytes

SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}
MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


def seconds(text: str) -> float:
    """Read a time, ``90s``, ``10min`` or ``1.5h``."""
    return _read(text, SECONDS, "time", "10min")


def milliseconds(text: str) -> float:
    """Read a latency, ``10ms``, ``0.5s`` or ``200us``."""
    return _read(text, MILLISECONDS, "latency", "10ms")


def size(text: str) -> Bytes:
    """Read a size, ``8MB`` (10^6 bytes) or ``8MiB`` (2^20)."""
    return int(_read(text, {k: float(v) for k, v in BYTES.items()}, "size", "8MB"))


def _read(text: str, units: dict[str, float], what: str, example: str) -> float:
    found = NUMBER.fullmatch(text)
    if found is None or found[2] not in units:
        raise RecipeError(f"{text!r} is no {what}: write a number and one of {', '.join(units)}, like {example}")
    return float(found[1]) * units[found[2]]
