"""Which variant of the chain this machine can run."""

import platform
import sys
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


class UnfitError(RuntimeError):
    """This machine cannot run a variant, or none of a package; says what it lacks."""


def instruction_sets() -> set[str] | None:
    """Return the processor's flags by Linux's names; None if the system does not tell."""
    if CPUINFO.is_file():
        lines = (line.partition(":") for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines())
        return next((set(flags.split()) for key, _, flags in lines if key.strip() in ("flags", "Features")), set())
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return {"asimddp"}  # every Apple processor since the M1
    return None


def check(link: dict, providers: list) -> None:
    """Raise UnfitError if the provider or every instruction set of a link is missing here."""
    here, variant, isa = instruction_sets(), link["variant"], link["isa"]
    if link["provider"] not in providers:
        raise UnfitError(f"{variant} needs {link['provider']}, this onnxruntime has {', '.join(providers)}")
    if isa and not set(isa) & (here or set()):
        found = "which the system does not tell" if here is None else "and this processor has none of them"
        raise UnfitError(f"{variant} needs one of {', '.join(isa)}, {found} ({link['why']})")
