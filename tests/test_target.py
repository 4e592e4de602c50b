from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from dlc import target as targets
from dlc.errors import CapabilityError, UserError
from dlc.target import ISA_FLAGS, Target, detect, isa
from dlc.versions import limits

X86 = """processor\t: 0
flags\t\t: fpu sse2 avx512_vnni avx2 avx512f

processor\t: 1
flags\t\t: fpu amx_int8
"""
ARM = "processor\t: 0\nBogoMIPS\t: 50\nFeatures\t: fp asimd asimddp i8mm\n"


def test_detects_this_machine() -> None:
    found = detect(threads=2)
    assert (found.provider, found.threads) == ("cpu", 2)
    assert found.runtime == f"onnxruntime {metadata.version('onnxruntime')}"
    assert (found.opset, found.ir_version) == limits(metadata.version("onnxruntime"))
    assert found.arch == platform.machine().lower()
    assert set(found.isa) <= set(ISA_FLAGS)


def test_does_not_import_onnxruntime() -> None:
    code = "import sys; from dlc.target import detect; detect(); assert 'onnxruntime' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


@pytest.mark.parametrize(
    ("text", "flags", "integer_dot"),
    [
        (X86, ("avx2", "avx512f", "avx512_vnni"), True),
        (X86.replace("avx512_vnni ", "").replace(" avx512f", ""), ("avx2",), False),
        (ARM, ("asimddp", "i8mm"), True),
        ("processor : 0\n", (), False),
    ],
)
def test_reads_cpuinfo(tmp_path: Path, text: str, flags: tuple[str, ...], integer_dot: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    assert isa(path) == flags
    assert Target("cpu", "x86_64", isa(path), 1, "onnxruntime 1.32.0", 27, 14).integer_dot is integer_dot


def test_without_cpuinfo_numpy_is_asked(tmp_path: Path) -> None:
    found = isa(tmp_path / "none")
    assert set(found) <= set(isa() if Path("/proc/cpuinfo").exists() else ISA_FLAGS)


def test_threads() -> None:
    with pytest.raises(UserError, match="threads=0"):
        detect(threads=0)


def test_cuda_needs_its_own_distribution() -> None:
    with pytest.raises(CapabilityError, match=r"onnxruntime has no cuda provider: pip uninstall .* 'dlc\[cuda\]'"):
        detect("cuda")


def fake(folder: Path, *distributions: str) -> None:
    for name in distributions:
        info = folder / f"{name.replace('-', '_')}-1.30.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.30.0\n")


@pytest.mark.parametrize(
    ("installed", "answer"),
    [
        ((), "CapabilityError ONNX Runtime is not installed: pip install 'dlc[cpu]'"),
        (("onnxruntime", "onnxruntime-gpu"), "CapabilityError onnxruntime and onnxruntime-gpu are both installed"),
        (("onnxruntime-gpu",), "('onnxruntime-gpu', '1.30.0')"),
    ],
)
def test_distributions(tmp_path: Path, installed: tuple[str, ...], answer: str) -> None:
    """In a process whose path holds real distribution metadata, and not our own environment's."""
    fake(tmp_path, *installed)
    code = (
        "import importlib.metadata as m\n"
        "from dlc import target\n"
        f"import sys; sys.path[:] = [{str(tmp_path)!r}]\n"
        "try: print(target.runtime_distribution())\n"
        "except Exception as e: print(type(e).__name__, e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True,
        cwd=Path(targets.__file__).parents[1], env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.stdout.startswith(answer)
