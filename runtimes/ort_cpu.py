"""ONNX Runtime's CPU provider."""

from __future__ import annotations

from typing import ClassVar

from dlc.runtimes.ort import OrtRunner


class OrtCpuRunner(OrtRunner):
    """Runs a model on the CPU."""

    name: ClassVar[str] = "ort_cpu"
    provider: ClassVar[str] = "CPUExecutionProvider"
