"""What each ONNX Runtime accepts: one table of (opset, IR version), by minor version."""

from __future__ import annotations

import re
from typing import Final

from dlc.errors import CapabilityError

TABLE: Final[dict[tuple[int, int], tuple[int, int]]] = {
    (1, 23): (22, 11),  # loads 23, without a kernel for QuantizeLinear-23
    (1, 24): (25, 13),
    (1, 25): (26, 13),
    (1, 26): (26, 13),
    (1, 27): (26, 13),
    (1, 28): (26, 13),
    (1, 29): (26, 13),
    (1, 30): (26, 13),
    (1, 31): (26, 13),
    (1, 32): (27, 14),  # loads 28, without kernels for QuantizeLinear-28 and DequantizeLinear-28
}
"""Measured on the CPU wheels: the newest opset at which 60 common operators run, and the newest IR version that loads.

``tests/test_versions.py`` measures the row of the ONNX Runtime that is installed. The table starts where all the
contrib operators that dlc emits are known: GatherBlockQuantized takes packed bytes since 1.23.
"""

EXPORT_OPSET: Final = 20
"""Opset at which modules are exported, and to which older files are raised."""


def limits(runtime_version: str) -> tuple[int, int]:
    """Return the newest (opset, IR version) for an ONNX Runtime; one newer than the table gets the newest row."""
    version = _minor(runtime_version)
    oldest, newest = min(TABLE), max(TABLE)
    if version < oldest:
        raise CapabilityError(
            f"ONNX Runtime {runtime_version} is older than {_text(oldest)}, the oldest that dlc knows: "
            f"pip install 'onnxruntime>={_text(newest)}'"
        )
    return TABLE[min(version, newest)]


def unknown(runtime_version: str) -> str | None:
    """Say that a runtime is newer than the table, so that its limits are assumed; None if it is in the table."""
    if _minor(runtime_version) <= (newest := max(TABLE)):
        return None
    return f"ONNX Runtime {runtime_version} is newer than dlc knows; the limits of {_text(newest)} are used"


def _minor(version: str) -> tuple[int, int]:
    if (match := re.match(r"(\d+)\.(\d+)(\D|$)", version)) is None:
        raise CapabilityError(
            f"{version!r} is not an ONNX Runtime version; expected something like {_text(max(TABLE))}.0"
        )
    return int(match[1]), int(match[2])


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
