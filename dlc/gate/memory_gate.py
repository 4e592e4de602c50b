"""The gate on peak memory since the baseline: a ratio over processes of which each ran the model once."""

from __future__ import annotations

import numpy as np

from dlc.gate.lines import Decided, Line
from dlc.gate.observation import VariantSeen
from dlc.harness.ratios import shift
from dlc.manifest import Estimate, Status
from dlc.report import numbers

GATE = "peak memory since baseline"


def grown(variant: VariantSeen, earlier: VariantSeen, limit: float) -> Decided:
    """Compare the geometric means of the peaks; the interval is Welch's, on logarithms of the processes.

    Of one process on either side there is no interval, and the number alone decides, as the line says.
    """
    now, then = ([float(np.log(b)) for b in v.memory.peak_bytes] for v in (variant, earlier))
    fewest = min(len(now), len(then))
    value, low, high, p, interval = float(np.exp(np.mean(now) - np.mean(then))), None, None, None, ""
    if fewest > 1:
        moved = shift(now, then, same=False)
        value, low, high = moved.factor.value, moved.factor.low, moved.factor.high
        p, interval = moved.slower, _between(moved.factor)
    over: Status = "fail" if value > limit else "inconclusive"  # stands if it is beyond chance: ``corrected``
    status: Status = "pass" if (value if high is None else high) <= limit else over
    sizes = [numbers.size(round(float(np.exp(np.mean(logs))))) for logs in (now, then)]
    reason = (
        f"{sizes[0]}, of it {numbers.size(variant.memory.runtime_bytes)} the runtime: {value:.3f}×{interval} of "
        f"the baseline's {sizes[1]}, at most {limit:g}×; {_processes(fewest)}"
    )
    line = Line(
        variant=variant.precision, gate=GATE, status=status, value=value, low=low, high=high, limit=limit,
        reason=reason,
    )  # fmt: skip
    return Decided(line, p)


def _between(factor: Estimate) -> str:
    return f" [{factor.low:.3f}, {factor.high:.3f}]"


def _processes(fewest: int) -> str:
    return f"{fewest} processes" if fewest > 1 else "one run, so without an interval"
