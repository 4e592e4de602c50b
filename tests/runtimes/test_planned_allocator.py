"""The allocator in C under sanitizers: alone, and inside Python and ONNX Runtime."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dlc.runtimes.planned_library import SOURCE

HARNESS = Path(__file__).with_name("planned_allocator_test.c")
ROOT = HARNESS.parent.parent.parent
FLAGS = ("-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-fno-sanitize-recover=all")

THREADS = """
import threading
import numpy as np, onnx_ir as ir
from dlc.passes.plan_run import plan_run
from dlc.runtimes.planned import PlannedRunner, trace
from tests.runtimes.test_planned import CHAIN, feeds

chain, shapes = ir.from_onnx_text(CHAIN), {"x": (1000,)}
plan = plan_run(trace(chain, feeds(1000)), shapes)

def work(runner):
    for _ in range(100):
        x = runner.run(feeds(1000))
        assert np.array_equal(x["y"], expected["y"])
        runner.run(feeds(1001))  # no plan

with PlannedRunner(chain, [plan], slabs=2) as one, PlannedRunner(chain, [plan]) as two:
    expected = one.run(feeds(1000))
    threads = [threading.Thread(target=work, args=(r,)) for r in (one, two) * 3]
    [t.start() for t in threads], [t.join() for t in threads]
    assert two.counts.runs == 300 and one.counts.runs + one.counts.fallbacks == 301
    assert not one.counts.misses + two.counts.misses + one.counts.stranded + two.counts.stranded
print("all hold")
"""


def sanitized(sanitizer: str, output: Path) -> subprocess.CompletedProcess[str]:
    command = ["gcc", *FLAGS, f"-fsanitize={sanitizer}", f"-I{SOURCE.parent}", str(HARNESS), "-o", str(output)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def library_of_gcc(name: str) -> str:
    """Return its path, or the name as it is if gcc has none."""
    command = ["gcc", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_holds_under_a_sanitizer(sanitizer: str, tmp_path: Path) -> None:
    built = sanitized(sanitizer, tmp_path / "harness")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([tmp_path / "harness"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "all hold\n"), ran.stderr


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_runs_in_threads_under_a_sanitizer(sanitizer: str, tmp_path: Path) -> None:
    """Python and ONNX Runtime are as they come; the library alone is instrumented, so what is found is its own."""
    short = {"address": "asan", "thread": "tsan"}[sanitizer]
    # the sanitizer looks for C++'s exceptions when the process starts, and the interpreter is plain C
    preloaded = [library_of_gcc(name) for name in (f"lib{short}.so", "libstdc++.so.6")]
    if missing := [name for name in preloaded if not Path(name).is_absolute()]:
        pytest.skip(f"gcc comes without {missing[0]}")
    environment = {
        **os.environ,
        "CC": f"gcc -g -fsanitize={sanitizer}",
        "LD_PRELOAD": " ".join(preloaded),
        "DLC_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter frees little when it ends
        "TSAN_OPTIONS": "ignore_noninstrumented_modules=1",
    }
    ran = subprocess.run(
        [sys.executable, "-c", THREADS], capture_output=True, text=True, check=False, env=environment, cwd=ROOT
    )
    assert (ran.returncode, ran.stdout) == (0, "all hold\n"), ran.stderr
