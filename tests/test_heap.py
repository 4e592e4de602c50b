"""Blocks that are freed go back to the system, in a process of its own: what malloc is told holds for all of it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CHILD = """
import sys
import numpy as np
from pathlib import Path
from dlc.heap import return_freed_blocks

def resident():
    return int(next(t for t in Path("/proc/self/status").read_text().splitlines() if t.startswith("VmRSS")).split()[1])

if "told" in sys.argv:
    return_freed_blocks()
before = resident()
for _ in range(2):  # the first raises the threshold to its own size, so that the second comes from the heap
    block, lid = np.ones(20 << 20, np.uint8), np.ones(1 << 16, np.uint8)
    del block
print((resident() - before) >> 10)
"""


def megabytes_kept(*words: str) -> int:
    child = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, text=True, check=True)
    return int(child.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what was freed")
def test_freed_blocks_go_back() -> None:
    assert megabytes_kept() >= 20
    assert megabytes_kept("told") < 2
