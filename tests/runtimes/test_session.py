"""Options of sessions that are timed in turns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from dlc.harness.sittings import AGAIN, opener
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SPINNING_STOP, SessionConfig, resting
from dlc.stages.evidence import Subject
from tests.harness.test_measure import chain


def test_only_several_threads_need_rest() -> None:
    one, two = (SessionConfig(intra_op_threads=n, entries={"session.x": "1"}) for n in (1, 2))
    assert resting(one) is one
    assert resting(two).entries == {"session.x": "1", SPINNING_STOP: "1"}
    assert two.entries == {"session.x": "1"}  # what ships is left alone


def test_models_that_are_timed_in_turns_rest_and_answer_the_same(tmp_path: Path) -> None:
    ir.save(chain(2), tmp_path / "model.onnx")
    subject = Subject("two", tmp_path, SessionConfig(intra_op_threads=2))
    feeds = {"x": np.full((128, 128), 1 / 128, np.float32)}
    opened = opener({"two": subject.among_others}, "two")
    with opened(np.random.default_rng(0)) as runners, subject.runner() as alone:
        assert set(runners) == {"two", AGAIN}
        for runner in runners.values():
            assert isinstance(runner, OrtCpuRunner)
            assert runner.config.entries == {SPINNING_STOP: "1"}
            np.testing.assert_array_equal(runner.run(feeds)["y"], alone.run(feeds)["y"])
