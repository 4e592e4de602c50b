"""A provider that stands in for one that this machine lacks: it computes on the CPU, and remembers what was opened."""

from __future__ import annotations

from typing import Any, ClassVar

from dlc.runtimes.ort_cpu import OrtCpuRunner

PATH = f"{__name__}:Elsewhere"


class Elsewhere(OrtCpuRunner):
    """Counts its sessions."""

    sessions: ClassVar[int] = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        Elsewhere.sessions += 1
