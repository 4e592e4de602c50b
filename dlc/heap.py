"""Memory that was freed, and is still this process's."""

from __future__ import annotations

import ctypes
import sys

from dlc.types import Bytes

M_MMAP_THRESHOLD = -3
"""Its number in malloc.h of glibc."""
APART: Bytes = 128 << 10
"""What the threshold is at first. Unless it is set, it grows with every larger block that is freed, up to 32 MiB."""


def return_freed_blocks() -> None:
    """Have malloc return every large block to the system as soon as it is freed, from now on (mallopt(3)).

    A session that loads weights frees as much as it keeps; in glibc's heap that stays where a later one cannot use it.
    Without glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, APART)
