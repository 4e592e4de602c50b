from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from benchmarks.random_wired import random_wired
from dlc.errors import CapabilityError, ModelError
from dlc.feeds import seeded_feeds
from dlc.harness.growth import growth
from dlc.interface import Interface
from dlc.passes.plan_run import plan_run
from dlc.runtimes.planned import FOLLOWED, Tier, trace
from dlc.runtimes.planned_library import COMPILERS
from dlc.runtimes.run_growth import CLEAR
from dlc.runtimes.session import SessionConfig
from dlc.types import Feeds

needs_linux = pytest.mark.skipif(not CLEAR.exists(), reason="the peak of a run is read on Linux only")

ROOM = 2_000_000
"""Bytes that a process may grow by beside the arena: the allowance that the project states."""
COUNTED = 64 * 4096
"""Linux adds pages to a process's resident set when a thread has touched 64 of them."""


@pytest.fixture(scope="module")
def model() -> ir.Model:
    return random_wired(0)


@pytest.fixture(scope="module")
def feeds(model: ir.Model) -> Feeds:
    return seeded_feeds(Interface.of(model), {}, {}, np.random.default_rng(0))


@pytest.fixture(scope="module")
def file(model: ir.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    ir.save(model.clone(), path := tmp_path_factory.mktemp("growth") / "model.onnx")
    return path


@needs_linux
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C compiler is installed")
def test_a_planned_run_grows_by_its_arena(file: Path, feeds: Feeds) -> None:
    plan = plan_run(trace(file, feeds), {name: x.shape for name, x in feeds.items()})
    served = growth(file, FOLLOWED, feeds, plan)
    assert served.tier == Tier("planned")
    assert served.counts is not None
    assert served.counts.misses == 0
    assert plan.arena - COUNTED <= served.growth <= plan.arena + plan.escaping + ROOM
    assert served.growth < growth(file, SessionConfig(), feeds).growth


@needs_linux
def test_a_child_that_fails_says_why(feeds: Feeds, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.onnx failed in a process of its own: .*cannot load"):
        growth(tmp_path / "gone.onnx", SessionConfig(), feeds)


def test_a_system_that_hides_the_peak_is_named(file: Path, feeds: Feeds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlc.harness.growth.CLEAR", Path("/no/such/file"))
    with pytest.raises(CapabilityError, match="it can on Linux"):
        growth(file, SessionConfig(), feeds)
