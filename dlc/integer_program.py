"""Integer programs of yes and no, solved to the optimum by HiGHS."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from dlc.types import Floats

if TYPE_CHECKING:
    from scipy.sparse import csr_array

NODES = 10_000
"""Branches of one program; a limit of time would not give the same answer twice."""
_ALONE = threading.Lock()


def optimum(gains: Floats, limits: Sequence[tuple[Floats | csr_array, float]], *, free: int = 0) -> Floats | None:
    """Return x, [n], that gains most; None if no x is within the limits, or none was found in ``NODES`` branches.

    max  gains·x   s.t.  rows·x <= bound for each (rows, bound) of the limits,  x in {0, 1}

    ``rows`` is [n] or [m, n]. ``free``: so many of the last x are not asked to be whole, for they come out so.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # here: a Ctrl-C while it loads ends the process at once

    whole = np.ones(len(gains))
    whole[len(gains) - free :] = 0
    with _no_standard_output():
        found = milp(
            -gains, integrality=whole, bounds=Bounds(0.0, 1.0),
            constraints=[LinearConstraint(rows, ub=bound) for rows, bound in limits],
            options={"mip_rel_gap": 0.0, "node_limit": NODES},
        )  # fmt: skip
    return None if found.x is None else np.asarray(found.x, np.float64)


@contextmanager
def _no_standard_output() -> Iterator[None]:
    """Keep out of a JSON result what HiGHS prints whatever it is told (ERGO-Code/HiGHS#2783); one thread at a time."""
    with _ALONE:
        if (kept := _standard_output()) is None:
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 1)
            yield
        finally:
            _flush_c()
            os.dup2(kept, 1)
            os.close(kept)
            os.close(nowhere)


def _standard_output() -> int | None:
    """Return a second descriptor of standard output, all written that was printed; None if it is closed."""
    if sys.stdout is not None:
        sys.stdout.flush()
    _flush_c()
    try:
        return os.dup(1)
    except OSError:
        return None


def _flush_c() -> None:
    """Write what C has buffered, which Python's own flush does not know of."""
    if os.name == "posix":
        ctypes.CDLL(None).fflush(None)
