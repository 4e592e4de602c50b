"""A recurrent model is gated as it is compiled: its state is fed back along each sequence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from dlc.artifact import write_golden
from dlc.gate.scoring import score
from dlc.gate.subjects import Judged
from dlc.harness.accuracy import METRICS
from dlc.progress import Silent
from dlc.recipe import Dataset, Dim, Recipe
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.stages.evidence import Subject
from tests.harness.test_sequences import FEEDS, STATE, SUM
from tests.report.example import FP32


def test_errors_add_up_over_a_sequence(tmp_path: Path) -> None:
    """Sums of 0, 2 and 4 that begin at 1 are 1, 3 and 7; with a gain of 2 in each step 2, 8 and 24."""
    step = {"x": FEEDS["x"][0], "total": FEEDS["total"]}
    recipe = Recipe(
        name="sums", source=tmp_path / "sums.onnx", dims={"b": Dim(1, 4)}, state=STATE, metric=METRICS["mae"],
        evaluation=Dataset("sums", lambda: [FEEDS], targets=lambda: np.zeros((3, 1))),
        prediction=lambda _, outputs: outputs["y"][:, 0, :1],
    )  # fmt: skip
    with (
        OrtCpuRunner(ir.from_onnx_text(SUM)) as right,
        OrtCpuRunner(ir.from_onnx_text(SUM.replace("{1.0}", "{2.0}"))) as doubled,
    ):
        write_golden(tmp_path, [(step, right.run(step))])
        reference = Judged("0/fp32", Subject("fp32", tmp_path, SessionConfig()), FP32)
        runners = {"0/fp32": right, "0/int8": doubled}
        found = score(recipe, right.interface, reference, runners, 0, Silent())
    rows = {name: each.rows for name, each in found.of.items()}
    assert rows["0/fp32"] is not None
    assert rows["0/int8"] is not None
    assert rows["0/fp32"].ravel().tolist() == [1.0, 3.0, 7.0]
    assert rows["0/int8"].ravel().tolist() == [2.0, 8.0, 24.0]
