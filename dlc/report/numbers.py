"""How every report writes a number, so that terminal, Markdown and HTML show the same one."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from dlc.manifest import Estimate

if TYPE_CHECKING:
    from dlc.types import Bytes

ABSENT = "–"
"""What stands where nothing was measured."""
LONGEST_NAME = 80
"""Characters of a model's own name that a report shows; exporters write names of many hundreds."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
# All that XML 1.0 forbids; HTML parsers object to the same characters.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def size(count: Bytes) -> str:
    """Write bytes in the largest binary unit that keeps the number at 1 or more: ``1.25 MiB``."""
    power = min(max(count, 1).bit_length() - 1, 49) // 10
    return f"{count} B" if power == 0 else f"{significant(count / 1024**power, 4)} {_UNITS[power]}"


def si(value: float, unit: str) -> str:
    """Write a number with a decimal prefix: ``113 Gop/s``, ``1.41 MB``."""
    power = 0 if value < 1000 else min(int(math.log10(value)) // 3, 5)
    text = f"{significant(value / 1000**power, 3)} {('', 'k', 'M', 'G', 'T', 'P')[power]}{unit}"
    return text.rstrip()


def percent(share: float, digits: int = 2) -> str:
    """Write a share: ``99.83 %``."""
    return f"{100 * share:.{digits}f} %"


def percents(share: Estimate) -> str:
    """Write a share and its interval: ``99.83 % [99.50, 100.17]``."""
    return f"{percent(share.value)} {_range(100 * share.low, 100 * share.high, 2)}"


def ratio(times: Estimate) -> str:
    """Write a ratio and its interval: ``0.381× [0.362, 0.409]``."""
    return f"{times.value:.3f}× {_range(times.low, times.high, 3)}"


def metric(value: Estimate, unit: str) -> str:
    """Write a task metric in its own unit: ``97.66 % [96.49, 98.66]``."""
    return f"{value.value:.2f}{' %' if unit == '%' else ''} {_range(value.low, value.high, 2)}"


def milliseconds(time: float | None) -> str:
    """Write a time with four digits: ``35.20 ms``; four decimals from a microsecond on: ``0.0924 ms``."""
    if time is None:
        return ABSENT
    return f"{time:.4f} ms" if 1e-3 <= time < 1 else f"{significant(time, 4)} ms"


def cosine(value: float) -> str:
    """Write a cosine similarity so that 1.0 is printed for nothing less: ``0.99998``, ``1 - 3.1e-07``."""
    return f"1 - {1 - value:.1e}" if 0 < 1 - value < 5e-6 else f"{value:.5f}"


def decibels(value: float) -> str:
    """Write a signal-to-noise ratio; without noise there is no number."""
    return f"{value:.1f} dB" if math.isfinite(value) else "exact"


def nats(value: float) -> str:
    """Write a divergence with two digits: ``0.0031 nats``, ``2.4e-06 nats``."""
    return f"{value:.2g} nats"


def significant(value: float, digits: int) -> str:
    """Write a number with so many significant digits, never with an exponent: ``35.20``, ``1024``."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{decimals}f}"


def shorten(name: str, longest: int = LONGEST_NAME) -> str:
    """Cut the middle out of a long name: its ends tell more."""
    head = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:head]}…{name[head + 1 - longest :]}"


def legible(text: str) -> str:
    """Replace the characters that XML forbids."""
    return _ILLEGAL.sub("\ufffd", text)


def _range(low: float, high: float, digits: int) -> str:
    return f"[{low:.{digits}f}, {high:.{digits}f}]"
