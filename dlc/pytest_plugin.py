"""A fixture for pytest, installed with dlc: a model compiled, measured and judged as a test.

    def test_int8(dlc_gate):
        dlc_gate("models/minilm.py", variant="int8")

A gate that fails fails the test; one that is inconclusive skips it, with the reason. ``pytest --dlc-update-baseline``
writes the baselines instead of comparing with them. Nothing but pytest is imported until a test calls the fixture.
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
    """Add ``--dlc-update-baseline``."""
    group = parser.getgroup("dlc", "models judged by dlc")
    group.addoption(
        "--dlc-update-baseline", action="store_true", help="write dlc's baselines instead of comparing with them"
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
        )  # fmt: skip
        if outcome.status == "fail":
            pytest.fail(testing.explanation(outcome), pytrace=False)
        if outcome.status == "inconclusive":
            pytest.skip(testing.explanation(outcome))
        return outcome

    return run
