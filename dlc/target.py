"""Where a model will run: provider, instruction set, threads, runtime version, and what that runtime accepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Provider = Literal["cpu", "cuda"]

# The ISA extensions that change which integer kernels ONNX Runtime uses, by the kernel's name for them in cpuinfo.
ISA_FLAGS = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm", "bf16",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """One place where artifacts run. ``threads`` counts the threads of one operator (intra-op)."""

    provider: Provider
    arch: str
    isa: tuple[str, ...]
    threads: int
    runtime: str
    opset: int
    ir_version: int

    @property
    def integer_dot(self) -> bool:
        """Whether 8-bit products are summed in 32 bits; without it u8·s8 pairs saturate at 16 bits (AVX2, AVX-512F)."""
        return any(f in self.isa for f in ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"))

    @property
    def fingerprint(self) -> str:
        """Identify the target in cache keys."""
        return "/".join([self.provider, self.arch, "+".join(self.isa), f"t{self.threads}", self.runtime])
