"""Which variant of the chain this machine can run."""

import platform
import sys
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


class UnfitError(RuntimeError):
    """No variant fits this machine; says what each one lacks."""


def instruction_sets() -> set[str] | None:
    """Return the processor's flags by Linux's names; None if the system does not tell."""
    if CPUINFO.is_file():
        lines = (line.partition(":") for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines())
        return next((set(flags.split()) for key, _, flags in lines if key.strip() in ("flags", "Features")), set())
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return {"asimddp"}  # every Apple processor since the M1
    return None


def fitting(chain: list, providers: list) -> dict:
    """Return the first link whose provider and instruction sets are here; UnfitError says what each one lacks."""
    here, lacking = instruction_sets(), []
    for link in chain:
        if link["provider"] not in providers:
            lacking.append(f"{link['variant']} needs {link['provider']}, this onnxruntime has {', '.join(providers)}")
        elif link["isa"] and (here is None or not here & set(link["isa"])):
            found = "which the system does not tell" if here is None else "and this processor has none of them"
            lacking.append(f"{link['variant']} needs one of {', '.join(link['isa'])}, {found} ({link['why']})")
        else:
            return link
    raise UnfitError(f"no variant of this package fits this machine: {'; '.join(lacking)}")
