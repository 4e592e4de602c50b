from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx_ir as ir
import pytest

from benchmarks.random_wired import random_wired
from dlc.bench import Subject
from dlc.errors import Unsupported
from dlc.memory_bench import BEST, OPTIONS, PLANNED, STOCK, bench_memory
from dlc.progress import Silent
from dlc.runtimes.planned_library import COMPILERS
from dlc.runtimes.run_growth import CLEAR
from dlc.runtimes.session import SessionConfig
from tests.cli.conftest import Cli, cli
from tests.harness.test_growth import COUNTED

__all__ = ["cli"]  # a fixture


@pytest.mark.skipif(not CLEAR.exists(), reason="the peak of a run is read on Linux only")
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C compiler is installed")
def test_every_way_is_measured(tmp_path: Path, cli: Cli) -> None:
    ir.save(random_wired(0), tmp_path / "model.onnx")
    ran = cli("bench", str(tmp_path / "model.onnx"), "--memory", "--rounds", "10", "--format", "json")
    assert ran.code == 0, ran.err
    rows = {row["way"]: row for row in json.loads(ran.out)}
    assert list(rows) == [STOCK, BEST, OPTIONS, PLANNED]
    assert all(row["exact"] and row["growth"] > 0 and row["latency"]["runs"] >= 10 for row in rows.values())
    planned = rows[PLANNED]
    assert (planned["misses"], planned["note"]) == (0, "")
    assert planned["planned"] <= planned["growth"] + COUNTED
    assert planned["growth"] < rows[STOCK]["growth"]


def test_other_providers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ir.save(random_wired(0), tmp_path / "model.onnx")
    subject = Subject("variant", tmp_path / "model.onnx", SessionConfig(provider="cuda"))
    monkeypatch.setattr("dlc.memory_bench.subjects_of", lambda *_: [subject])
    with pytest.raises(Unsupported, match="planned for the CPU provider, not for cuda"):
        bench_memory([tmp_path], {}, rounds=10, threads=None, seed=0, progress=Silent())
