"""The machine that numbers were measured on: its processor, how many of them, and its operating system."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
NAMES = ("model name", "Model", "Hardware", "cpu model")
"""What cpuinfo calls a processor: on x86; boards of ARM; older ones; MIPS and RISC-V."""
PARTS = ("CPU implementer", "CPU part")
"""What it says on ARM servers, which name no model: numbers of the maker and of the core."""


def cpu(cpuinfo: Path = CPUINFO) -> str:
    """Name the processor's model; empty where the system does not say."""
    if cpuinfo.is_file():
        return _named(cpuinfo.read_text(encoding="utf-8", errors="replace"))
    return _brand() if sys.platform == "darwin" else platform.processor()


def cores() -> int:
    """Count the processors that the system has, whether or not this process may use them."""
    return os.cpu_count() or 1


def system() -> str:
    """Name the system, its release and its C library: ``Linux 6.1.0, glibc 2.36``. Never the host.

    Of the release only the numbers: what stands behind them names a build, and may name its owner.
    """
    release = re.match(r"\d+(\.\d+)*", platform.release())
    library = " ".join(filter(None, platform.libc_ver()))
    name = " ".join(filter(None, (platform.system(), release[0] if release else "")))
    return ", ".join(filter(None, (name, library)))


def _named(cpuinfo: str) -> str:
    """Read what cpuinfo says of the first processor, and of the board."""
    said: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        said.setdefault(key.strip(), " ".join(value.split()))
    for name in NAMES:
        if said.get(name):
            return said[name]
    return ", ".join(f"{part} {said[part]}" for part in PARTS if said.get(part))


def _brand() -> str:
    command = ("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string")
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - fixed
    except (OSError, subprocess.CalledProcessError):
        return platform.processor()
