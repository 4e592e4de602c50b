"""ONNX Runtime's CUDA provider, and what is missing where it cannot run."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from dlc.errors import CapabilityError
from dlc.runtimes.ort import OrtRunner

COMMAND = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'dlc[cuda]'"
RECORD = "session.record_ep_graph_assignment_info"
WINDOWS = sys.platform == "win32"
DRIVER = "nvcuda.dll" if WINDOWS else "libcuda.so.1"
LIBRARIES = ("onnxruntime_providers_shared", "onnxruntime_providers_cuda")

COMPUTE = (
    "Attention", "Conv", "ConvInteger", "ConvTranspose", "DynamicQuantizeMatMul", "Einsum", "FusedConv", "FusedGemm",
    "FusedMatMul", "GRU", "Gemm", "GroupQueryAttention", "LSTM", "LayerNormalization", "MatMul", "MatMulInteger",
    "MatMulIntegerToFloat", "MatMulNBits", "MultiHeadAttention", "QAttention", "QGemm", "QLinearConv", "QLinearMatMul",
    "RNN", "Softmax",
)  # fmt: skip
"""Operators that must not run elsewhere; ONNX Runtime itself puts small shape arithmetic on the CPU."""


class OrtCudaRunner(OrtRunner):
    """Runs a model on an NVIDIA GPU. Getting the CPU instead, for the session or for heavy nodes, is CapabilityError.

    Placement is checked when the session opens (ONNX Runtime 1.24 and later record it).
    """

    name: ClassVar[str] = "ort_cuda"
    provider: ClassVar[str] = "CUDAExecutionProvider"

    def configure(self, options: Any) -> None:
        """Have the session record which provider got which node."""
        options.add_session_config_entry(RECORD, "1")

    @classmethod
    def check_provider(cls, ort: Any) -> None:
        """Raise CapabilityError that names all that is missing."""
        if missing := list(obstacles(ort)):
            raise CapabilityError(f"CUDA cannot be used here: {'; '.join(missing)}. To install: {COMMAND}")

    def check_session(self) -> None:
        """Raise CapabilityError if the session, or a heavy node of it, is not on the GPU."""
        provider, got = self.provider, self._session.get_providers()
        if provider not in got:
            raise CapabilityError(
                f"asked for {provider}, but ONNX Runtime silently fell back to {', '.join(got)}: the provider did "
                "not start; run dlc doctor to see which library or driver it lacks"
            )
        if strays := list(misplaced(self._session, provider)):
            raise CapabilityError(
                f"asked for {provider}, but {len(strays)} nodes run elsewhere: {', '.join(strays[:3])}; they have "
                "no CUDA kernel for their types: choose another precision, or the cpu provider"
            )


def misplaced(session: Any, provider: str) -> Iterator[str]:
    """Name the heavy nodes that a session runs on another provider."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return
    for part in session.get_provider_graph_assignment_info():
        if part.ep_name != provider:
            for node in part.get_nodes():
                if node.op_type in COMPUTE:
                    yield f"{node.op_type} {node.name!r} on {part.ep_name}"


def obstacles(ort: Any) -> Iterator[str]:
    """Say what keeps CUDA from working: the package, the driver, the libraries."""
    installed = [d for d in ("onnxruntime", "onnxruntime-gpu") if _is_installed(d)]
    if len(installed) > 1:
        yield "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; keep one"
    if OrtCudaRunner.provider not in ort.get_available_providers():
        wheel = installed[0] if installed else "onnxruntime"
        yield f"{wheel} {ort.__version__} is a build without CUDA"
    else:
        yield from _library_faults(ort)
    yield from _driver_faults()


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _library_faults(ort: Any) -> Iterator[str]:
    """Load the provider as ONNX Runtime would; the loader names the library that it lacks (CUDA, cuBLAS, cuDNN)."""
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()
    folder = Path(ort.__file__).parent / "capi"
    for library in LIBRARIES:
        try:
            ctypes.CDLL(str(folder / (f"{library}.dll" if WINDOWS else f"lib{library}.so")), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            yield f"the CUDA provider cannot be loaded: {_without_folder(str(error), folder)}"


def _driver_faults() -> Iterator[str]:
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        yield f"there is no NVIDIA driver ({DRIVER} cannot be loaded); it comes with the machine, not with pip"
        return
    count = ctypes.c_int(0)
    if (status := driver.cuInit(0)) or (status := driver.cuDeviceGetCount(ctypes.byref(count))):
        yield f"the NVIDIA driver does not start (CUDA error {status})"
    elif count.value == 0:
        yield "the NVIDIA driver finds no GPU"


def _without_folder(message: str, folder: Path) -> str:
    return message.replace(f"{folder}/", "").replace(f"{folder}\\", "")
