from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc.errors import CapabilityError
from dlc.runtimes.ort_cuda import RECORD, OrtCudaRunner, misplaced, obstacles

ort = pytest.importorskip("onnxruntime")
HAS_CUDA = OrtCudaRunner.provider in ort.get_available_providers()
DRIVER = Path("/dev/nvidiactl")
ROOT = Path(__file__).parents[2]
MODEL = """<ir_version: 10, opset_import: ["" : 20]>
g (float[4, 4] x) => (float[4, 4] y) { h = MatMul(x, x) y = Relu(h) }"""


class Unchecked(OrtCudaRunner):
    """Asks for CUDA without looking whether it is there, as a plain session does."""

    @classmethod
    def check_provider(cls, ort: object) -> None:
        """Look at nothing."""


def model() -> ir.Model:
    return ir.from_onnx_text(MODEL)


@pytest.mark.skipif(HAS_CUDA, reason="this build has CUDA")
def test_the_cpu_wheel_is_named_with_the_command() -> None:
    with pytest.raises(CapabilityError) as error, OrtCudaRunner(model()):
        pass
    assert f"onnxruntime {ort.__version__} is a build without CUDA" in str(error.value)
    assert "pip install 'dlc[cuda]'" in str(error.value)


@pytest.mark.skipif(HAS_CUDA or DRIVER.exists(), reason="this machine has an NVIDIA driver")
def test_the_missing_driver_is_named() -> None:
    assert any("no NVIDIA driver (libcuda.so.1 cannot be loaded)" in o for o in obstacles(ort))


@pytest.mark.skipif(HAS_CUDA, reason="this build has CUDA")
def test_a_silent_fallback_is_an_error() -> None:
    runner = Unchecked(model())
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(CapabilityError, match="silently fell"),
    ):
        runner.open()
    assert runner._session is None


def test_heavy_nodes_elsewhere_are_named_and_light_ones_are_not() -> None:
    options = ort.SessionOptions()
    options.add_session_config_entry(RECORD, "1")
    session = ort.InferenceSession(
        ir.to_proto(model()).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    assert list(misplaced(session, "CPUExecutionProvider")) == []
    (stray,) = misplaced(session, OrtCudaRunner.provider)
    assert stray.startswith("MatMul ")
    assert stray.endswith(" on CPUExecutionProvider")


@pytest.mark.skipif(not HAS_CUDA or any(obstacles(ort)), reason="needs a GPU that works")
def test_it_runs_on_the_gpu() -> None:
    with OrtCudaRunner(model(), profile=True) as runner:
        x = np.eye(4, dtype=np.float32)
        assert np.array_equal(runner.run({"x": x})["y"], x)
        assert set(runner.placements({"x": x}).values()) == {OrtCudaRunner.provider}


@pytest.fixture(scope="module")
def gpu_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a virtual environment that holds onnxruntime-gpu itself, without the gigabytes of CUDA."""
    if DRIVER.exists():
        pytest.skip("this machine has an NVIDIA driver: the fallback cannot be provoked")
    folder = tmp_path_factory.mktemp("gpu")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    needed = ["flatbuffers", "ml_dtypes", "msgspec", "numpy", "onnx", "onnx-ir", "packaging", "protobuf"]
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), *needed], check=True)
    subprocess.run([*pip, "--no-deps", "onnxruntime-gpu"], check=True)
    return python


def run(python: Path, body: str) -> str:
    """Run a script with ``Unchecked``, ``OrtCudaRunner``, ``model`` and ``CapabilityError`` at hand."""
    source = Path(__file__).read_text(encoding="utf-8")
    unchecked = source[source.index("class Unchecked") : source.index("def model()")]
    script = (
        "import onnx_ir as ir, onnxruntime as ort\n"
        "from dlc.errors import CapabilityError\n"
        "from dlc.runtimes.ort_cuda import OrtCudaRunner\n"
        f"{unchecked}\nmodel = ir.from_onnx_text('''{MODEL}''')\n{body}"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([str(python), "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


ATTEMPT = """
try:
    with {runner}(model):
        print("ran on CUDA")
except CapabilityError as error:
    print(error)
"""


@pytest.mark.slow
def test_the_gpu_wheel_without_cuda_names_what_is_missing(gpu_python: Path) -> None:
    providers = run(gpu_python, "print(ort.get_available_providers())")
    assert "CUDAExecutionProvider" in providers, "the wheel claims CUDA, which is why asking it is not enough"
    said = run(gpu_python, ATTEMPT.format(runner="OrtCudaRunner"))
    assert "the CUDA provider cannot be loaded: libcu" in said
    assert "cannot open shared object file" in said
    assert "pip install 'dlc[cuda]'" in said
    assert str(gpu_python.parent.parent) not in said


@pytest.mark.slow
def test_the_gpu_wheel_falls_back_silently_and_we_do_not(gpu_python: Path) -> None:
    plain = "print(ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=['{}']).get_providers())"
    assert run(gpu_python, plain.format(OrtCudaRunner.provider)).strip() == "['CPUExecutionProvider']"
    said = run(gpu_python, ATTEMPT.format(runner="Unchecked"))
    assert "asked for CUDAExecutionProvider, but ONNX Runtime silently fell back to CPUExecutionProvider" in said


@pytest.mark.slow
def test_both_wheels_at_once_are_named(gpu_python: Path) -> None:
    pip = [str(gpu_python), "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "onnxruntime"], check=True)
    try:
        said = run(gpu_python, ATTEMPT.format(runner="OrtCudaRunner"))
    finally:
        subprocess.run([*pip, "uninstall", "--quiet", "-y", "onnxruntime"], check=True)
    assert "onnxruntime and onnxruntime-gpu are both installed and overwrite each other" in said
