"""Integer programs of yes and no, solved to the optimum by HiGHS."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from dlc.types import Floats

if TYPE_CHECKING:
    from scipy.sparse import csr_array

NODES = 10_000
"""Branches of one program; a limit of time would not give the same answer twice."""


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
    """Keep out of a JSON result what HiGHS prints whatever it is told (ERGO-Code/HiGHS#2783)."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
