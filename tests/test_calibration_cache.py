"""What calibration found is used again for the same question only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from dlc import calibrate, calibration_cache, clipping
from dlc.calibration import Calibration
from dlc.calibration_cache import data_digest, key, remembered
from dlc.types import Feeds

TEXT = """
<ir_version: 10, opset_import: ["": 20]>
g (float[b, 2] x) => (float[b, 2] y) <float[2] w = {WEIGHT, 2.0}> {
    h = Mul (x, w)
    y = Neg (h)
}
"""
OPTIONS = Calibration(method="best")


def model(weight: float = 1.0) -> ir.Model:
    return ir.from_onnx_text(TEXT.replace("WEIGHT", str(weight)))


def batches(scale: float = 1.0) -> list[Feeds]:
    return [{"x": np.array([[scale, -1.0], [2.0, 3.0]], np.float32)}, {"x": np.array([[0.5, 0.5]], np.float32)}]


ASKED: dict[str, Any] = {
    "model": model(), "batches": batches, "tensors": ["h"], "means": {"h": 1}, "options": OPTIONS, "threads": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        {"model": model(1.5)},
        {"model": ir.from_onnx_text(TEXT.replace("WEIGHT", "1.0").replace("h = Mul", "h = Add"))},
        {"model": ir.from_onnx_text(TEXT.replace("WEIGHT", "1.0").replace('"": 20', '"": 19'))},
        {"batches": lambda: batches(1.5)},
        {"batches": lambda: batches()[:1]},
        {"batches": lambda: [{"x": np.concatenate([feeds["x"] for feeds in batches()])}]},
        {"tensors": ["y"]},
        {"means": {"h": 0}},
        {"options": Calibration(method="mse")},
        {"options": replace(OPTIONS, percentile=99.0)},
        {"options": replace(OPTIONS, max_ram=1 << 20)},
        {"threads": 2},
    ],
    ids=["weight", "operator", "opset", "data", "fewer", "batching", "tensors", "means", "method", "percentile", "ram",
         "threads"],
)  # fmt: skip
def test_whatever_the_result_depends_on_is_in_the_key(other: Mapping[str, Any]) -> None:
    assert key(**ASKED) != key(**{**ASKED, **other})


def test_the_code_and_the_versions_are_in_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = key(**ASKED)
    with monkeypatch.context() as patch:
        patch.setattr(calibration_cache, "__version__", "9.9.9")
        assert key(**ASKED) != before
    changed = tmp_path / "clipping.py"
    changed.write_text("LEVELS = 15\n")
    monkeypatch.setattr(clipping, "__file__", str(changed))
    assert key(**ASKED) != before


def test_where_results_are_kept_is_not_in_the_key(tmp_path: Path) -> None:
    assert key(**ASKED) == key(**{**ASKED, "options": replace(OPTIONS, cache=tmp_path), "model": model()})


def test_the_digest_of_data_does_not_depend_on_memory_layout() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert data_digest(lambda: [{"x": x}]) == data_digest(lambda: [{"x": np.asfortranarray(x)}])


def test_a_second_calibration_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {**ASKED, "options": replace(OPTIONS, cache=tmp_path / "new")}
    first = remembered(**asked)
    assert first == calibrate.measure(model(), batches, ["h"], {"h": 1}, options=OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(calibrate, "measure", lambda *_, **__: pytest.fail("calibrated again"))
        assert remembered(**asked) == first
    [file] = (tmp_path / "new").iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    assert remembered(**asked) == first
    assert [f.name for f in (tmp_path / "new").iterdir()] == [file.name]


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "taken").touch()
    assert remembered(**{**ASKED, "options": replace(OPTIONS, cache=tmp_path / "taken")}).runs == 1
    assert "cannot be written" in caplog.text
