"""Where a model will run: provider, instruction set, threads, runtime version, and what that runtime accepts."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from dlc import machine
from dlc.errors import CapabilityError, UserError
from dlc.versions import limits

Provider = Literal["cpu", "cuda"]

# The ISA extensions that change which integer kernels ONNX Runtime uses, by the kernel's name for them in cpuinfo.
ISA_FLAGS = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm", "bf16",
)  # fmt: skip

# Those that sum 8-bit products in 32 bits.
INTEGER_DOT = ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")

# The same extensions by numpy's names, for systems without /proc/cpuinfo.
NUMPY_FEATURES = {
    "AVX2": "avx2", "AVX512F": "avx512f", "AVX512VNNI": "avx512_vnni", "AVX512_BF16": "avx512_bf16",
    "ASIMDDP": "asimddp",
}  # fmt: skip

DISTRIBUTIONS: dict[str, Provider] = {"onnxruntime": "cpu", "onnxruntime-gpu": "cuda"}


@dataclass(frozen=True, slots=True)
class Target:
    """One place where artifacts run. ``threads`` counts the threads of one operator (intra-op).

    ``cpu``, ``cores`` and ``system`` describe the machine (``dlc.machine``), empty and 0 where they are not known.
    """

    provider: Provider
    arch: str
    isa: tuple[str, ...]
    threads: int
    runtime: str
    opset: int
    ir_version: int
    cpu: str = ""
    cores: int = 0
    system: str = ""

    @property
    def integer_dot(self) -> bool:
        """Whether 8-bit products are summed in 32 bits; without it u8·s8 pairs saturate at 16 bits (AVX2, AVX-512F)."""
        return any(f in self.isa for f in INTEGER_DOT)

    @property
    def fingerprint(self) -> str:
        """Identify the target in cache keys: by what decides which kernels run."""
        return "/".join([self.provider, self.arch, "+".join(self.isa), f"t{self.threads}", self.runtime])


def detect(provider: Provider = "cpu", threads: int = 1) -> Target:
    """Describe this machine; CapabilityError without exactly one ONNX Runtime distribution. Nothing is imported."""
    if threads < 1:
        raise UserError(f"threads={threads}: an operator needs at least one thread")
    distribution, version = runtime_distribution()
    if provider != DISTRIBUTIONS[distribution] and provider != "cpu":
        raise CapabilityError(
            f"{distribution} has no {provider} provider: pip uninstall {distribution}, "
            f"then pip install 'dlc[{provider}]'"
        )
    opset, ir_version = limits(version)
    return Target(
        provider, _arch(), isa(), threads, f"{distribution} {version}", opset, ir_version,
        machine.cpu(), machine.cores(), machine.system(),
    )  # fmt: skip


def runtime_distribution() -> tuple[str, str]:
    """Return name and version of the one ONNX Runtime distribution that is installed."""
    found = {name: v for name in DISTRIBUTIONS if (v := _version(name)) is not None}
    if not found:
        raise CapabilityError("ONNX Runtime is not installed: pip install 'dlc[cpu]'")
    if len(found) > 1:
        raise CapabilityError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files: "
            "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'dlc[cpu]' or 'dlc[cuda]'"
        )
    return next(iter(found.items()))


def isa(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """List the ISA extensions of this processor that matter here, in the order of ISA_FLAGS."""
    flags = _linux_flags(cpuinfo) if cpuinfo.is_file() else _numpy_flags()
    return tuple(f for f in ISA_FLAGS if f in flags)


def _arch() -> str:
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def _linux_flags(cpuinfo: Path) -> frozenset[str]:
    """Flags of the first processor: x86 calls the line ``flags``, ARM ``Features``."""
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _numpy_flags() -> frozenset[str]:
    """What numpy found at import; every 64-bit Apple processor since the M1 has the 8-bit dot product."""
    from numpy._core._multiarray_umath import __cpu_features__  # type: ignore[import-not-found, unused-ignore]

    flags = {ours for theirs, ours in NUMPY_FEATURES.items() if __cpu_features__.get(theirs)}
    if sys.platform == "darwin" and _arch() == "aarch64":
        flags.add("asimddp")
    return frozenset(flags)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
