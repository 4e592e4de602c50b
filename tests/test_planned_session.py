from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from benchmarks.random_wired import random_wired
from dlc import memory_plan
from dlc.artifact import MEMORY
from dlc.errors import ArtifactError
from dlc.feeds import seeded_feeds
from dlc.interface import Interface
from dlc.planned_files import FILE, write
from dlc.planned_session import open_planned
from dlc.planning import prepare
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.planned import Tier
from dlc.runtimes.planned_library import COMPILERS
from dlc.types import Feeds

pytestmark = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C compiler is installed")

PAGE = Path(__file__).parent.parent / "docs" / "memory.md"


@pytest.fixture(scope="module")
def model() -> ir.Model:
    return random_wired(0)


@pytest.fixture(scope="module")
def feeds(model: ir.Model) -> Feeds:
    return seeded_feeds(Interface.of(model), {}, {}, np.random.default_rng(0))


@pytest.fixture(scope="module")
def written(model: ir.Model, feeds: Feeds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    write(folder := tmp_path_factory.mktemp("plans") / "planned", prepare(model, feeds))
    return folder


def test_a_planned_folder_runs_at_its_offsets(written: Path, model: ir.Model, feeds: Feeds) -> None:
    with OrtCpuRunner(model) as stock, open_planned(written) as session:
        for _ in range(2):
            [expected], [y] = stock.run(feeds).values(), session.run(feeds).values()
            assert np.array_equal(y, expected)
        assert session.tier == Tier("planned")
        assert (session.counts.runs, session.counts.misses) == (2, 0)
        assert session.counts.served > 0


def test_a_plan_without_allocations_leaves_options(written: Path, feeds: Feeds, tmp_path: Path) -> None:
    shutil.copytree(written, folder := tmp_path / "planned")
    recorded = memory_plan.read(folder / MEMORY)
    (folder / MEMORY).write_bytes(msgspec.json.encode(msgspec.structs.replace(recorded, allocations=())))
    with open_planned(folder) as session:
        session.run(feeds)
        assert session.tier == Tier("options", "there is no plan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_sha256": "0" * 64}, "of another model"),
        ({"runtime": "1.2.3"}, "for ONNX Runtime 1.2.3"),
        ({"file": "gone.onnx"}, r"gone\.onnx is missing"),
    ],
    ids=["another model", "another runtime", "no model"],
)
def test_a_plan_of_something_else_is_refused(
    change: dict[str, str], message: str, written: Path, tmp_path: Path
) -> None:
    shutil.copytree(written, folder := tmp_path / "planned")
    recorded = memory_plan.read(folder / MEMORY)
    (folder / MEMORY).write_bytes(msgspec.json.encode(msgspec.structs.replace(recorded, **change)))
    with pytest.raises(ArtifactError, match=message):
        open_planned(folder)
    assert (folder / FILE).is_file()


def test_the_page_works_as_it_says(model: ir.Model, tmp_path: Path) -> None:
    page = PAGE.read_text()
    [command], [code] = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("sh", "python"))
    ir.save(model.clone(), tmp_path / "model.onnx")
    for line in (["-m", *shlex.split(command)], ["-c", code]):
        child = subprocess.run([sys.executable, *line], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert child.returncode == 0, child.stderr
    assert child.stdout.splitlines() == [comment.strip() for comment in re.findall(r"# +(.*)", code)]
