from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.integer_program import _no_standard_output, optimum


@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_no_choice_within_the_limits_gains_more(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    gains, costs, other = rng.uniform(-1, 1, size), rng.uniform(0, 1, size), rng.uniform(0, 1, size)
    limits = [(costs, 0.3 * costs.sum()), (np.stack([other, -other]), 0.6 * other.sum())]
    found = optimum(gains, limits)
    assert found is not None
    choices = np.array(list(itertools.product((0, 1), repeat=size)))
    within = (choices @ costs <= limits[0][1]) & (choices @ other <= limits[1][1])
    assert gains @ found.round() == pytest.approx((choices[within] @ gains).max(), abs=1e-6)


def test_what_cannot_be_held_has_no_optimum() -> None:
    assert optimum(np.ones(2), [(-np.ones(2), -3.0)]) is None


def test_what_a_library_prints_is_swallowed_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    with _no_standard_output():
        os.write(1, b"progress of HiGHS\n")
    os.write(1, b"result\n")
    assert capfd.readouterr().out == "result\n"


def test_what_c_buffers_for_a_pipe_is_swallowed_too() -> None:
    """Without a terminal C writes what it prints when the process ends: behind the result, if it is not flushed."""
    code = """
import ctypes
from dlc.integer_program import _no_standard_output
libc = ctypes.CDLL(None)
libc.printf(b"before\\n")
with _no_standard_output():
    libc.printf(b"progress of HiGHS\\n")
print("result")
"""
    assert _printed(code) == "before\nresult\n"


def test_threads_swallow_in_turns(capfd: pytest.CaptureFixture[str]) -> None:
    inside, both, alone = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with _no_standard_output():
            inside.set()
            both.wait(0.2)  # in vain, if the other has to wait for this
        alone.set()

    def second() -> None:
        inside.wait()
        with _no_standard_output():
            both.set()
            alone.wait()

    threads = [threading.Thread(target=each) for each in (first, second)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    os.write(1, b"result\n")
    assert capfd.readouterr().out == "result\n"


def test_a_closed_standard_output_is_no_obstacle() -> None:
    code = """
import os, sys
os.close(1)
sys.stdout = None
import numpy as np
from dlc.integer_program import optimum
sys.stderr.write(str(optimum(np.array([1.0, 2.0]), [(np.ones(2), 1.0)])))
"""
    assert _printed(code, stream="stderr") == "[0. 1.]"


def _printed(code: str, stream: str = "stdout") -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True, text=True)
    found: str = getattr(done, stream)
    return found
