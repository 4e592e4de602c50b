from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from dlc.errors import CapabilityError, DataError
from dlc.export import export
from dlc.models import fracast
from dlc.models.datasets import data_root
from dlc.runtimes.ort_cpu import OrtCpuRunner


def test_a_missing_package_comes_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fracast, "NAME", "no_such_package")
    with pytest.raises(CapabilityError, match="no_such_package is not installed: pip install"):
        fracast.recipe()


def series(path: Path, hours: int) -> Path:
    lines = [f"hour,{h},{h % 24}.5" for h in range(hours)]
    path.write_text("\n".join(["date,a,b", *lines]), encoding="utf-8")
    return path


def test_windows_hold_what_came_before_and_targets_what_came_after(tmp_path: Path) -> None:
    file = series(tmp_path / "s.csv", fracast.END)
    data = fracast.windows(file, "test", [fracast.TEST, fracast.TEST + 97])
    first, second = (feeds["context"] for feeds in data.batches())
    assert first.shape == (2, 2048)
    assert data.targets is not None
    targets = data.targets()
    assert targets.shape == (4, 48)
    step = first[0, 1] - first[0, 0]  # the first series rises by the same step each hour, but for FP32 rounding
    assert targets[0, 0] - first[0, -1] == pytest.approx(step, rel=1e-2)
    assert second[0, 0] - first[0, 0] == pytest.approx(97 * step, rel=1e-2)


def test_the_training_year_alone_sets_the_scale(tmp_path: Path) -> None:
    scaled = fracast.read(series(tmp_path / "s.csv", fracast.END))
    year = scaled[: fracast.TRAIN].astype(np.float64)
    assert year.mean(axis=0) == pytest.approx([0, 0], abs=1e-6)  # rounded to FP32
    assert year.std(axis=0) == pytest.approx([1, 1], abs=1e-6)


@pytest.mark.parametrize("text", ["date,a\nhour,1.0", "date,a\nhour,high", "date,a\nhour,1\nhour,1,2"])
def test_a_file_that_is_no_series_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"s\.csv"):
        fracast.read(path)


@pytest.mark.slow  # the export takes a minute: a thousand nodes and the periodogram
@pytest.mark.zoo
@pytest.mark.data
@pytest.mark.skipif(data_root() is None or find_spec("fracast") is None, reason="needs DLC_DATA and fracast")
def test_mae() -> None:
    recipe = fracast.recipe()
    assert recipe.evaluation is not None
    assert recipe.evaluation.targets is not None
    assert recipe.metric is not None
    model = export(recipe, opset=20, ir_version=10).model
    with OrtCpuRunner(model) as runner:
        found = [fracast.median(feeds, runner.run(feeds)) for feeds in recipe.evaluation.batches()]
    rows = recipe.metric.rows(np.concatenate(found), recipe.evaluation.targets())
    assert recipe.metric.statistic(rows) == pytest.approx(0.371, abs=5e-4)  # the figure of eager torch, rounded
