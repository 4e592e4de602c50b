"""A fixture for pytest, installed with dlc: a model compiled, measured and judged as a test.

    def test_int8(dlc_gate):
        dlc_gate("models/minilm.py", variant="int8")

A gate that fails fails the test; one that is inconclusive skips it, with the reason. ``pytest --dlc-update-baseline``
writes the baselines instead of comparing with them, ``--dlc-bisect`` looks for the change to blame, and
``--dlc-config`` names a ``dlc.toml``. Nothing but pytest is imported until a test calls the fixture.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dlc.gate.flow import Outcome

Gate = Callable[..., "Outcome"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of ``dlc gate`` that are not a test's own."""
    group = parser.getgroup("dlc", "models judged by dlc")
    group.addoption(
        "--dlc-update-baseline", action="store_true", help="write dlc's baselines instead of comparing with them"
    )
    group.addoption(
        "--dlc-bisect", action="store_true",
        help="where a gate fails, undo one change since the baseline at a time: which is to blame?",
    )  # fmt: skip
    group.addoption(
        "--dlc-config", type=Path, metavar="FILE",
        help="default: dlc.toml, or [tool.dlc] in pyproject.toml, at the root of the tests or above",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Refuse options that contradict each other."""
    if config.getoption("--dlc-bisect") and config.getoption("--dlc-update-baseline"):
        raise pytest.UsageError(
            "--dlc-bisect undoes what changed since the baselines, --dlc-update-baseline replaces them: leave one out"
        )


@pytest.fixture
def dlc_gate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """Return a function that gates a model: ``dlc_gate(source, variant="int8", baseline=None)``.

    ``source``: an artifact, which is measured as it is, or whatever ``dlc compile`` takes, which is compiled first,
    once a session. ``variant``: one to judge; default: all. ``baseline``: a file, relative to the root of the tests;
    default: what ``dlc.toml`` says, else ``baselines/<model>.json``, of one variant
    ``baselines/<model>-<variant>.json``. It returns the outcome.
    """

    def run(source: str | Path, *, variant: str | None = None, baseline: str | Path | None = None) -> Outcome:
        from dlc.gate import testing

        outcome = testing.gate_source(
            str(source), variant=variant, baseline=Path(baseline) if baseline is not None else None,
            root=request.config.rootpath, scratch=tmp_path_factory.getbasetemp() / "dlc",
            update=bool(request.config.getoption("--dlc-update-baseline")),
            configuration=request.config.getoption("--dlc-config"),
            bisect=bool(request.config.getoption("--dlc-bisect")),
        )  # fmt: skip
        if outcome.status == "fail":
            pytest.fail(testing.explanation(outcome), pytrace=False)
        if outcome.status == "inconclusive":
            pytest.skip(testing.explanation(outcome))
        return outcome

    return run
