"""Whether a ratio of latencies holds its limit, and whether a machine is fit to tell."""

from __future__ import annotations

from dlc.manifest import Estimate, Status

BUSY = 0.1
"""Share of the time without a CPU above which no latency fails: caches that others emptied cost each model another
share. Measured: with the time-slices of nine other processes the ratio of digits-cnn moved by 4 to 6 %."""
UNSURE = "the sittings are too few, or the machine too noisy, to tell"


def held(ratio: Estimate, limit: float) -> Status:
    """Pass if the whole interval holds the limit, fail if none of it does."""
    return "pass" if ratio.high <= limit else "fail" if ratio.low > limit else "inconclusive"


def busier(*away: float | None) -> float | None:
    """Return the largest known share of time without a CPU; None if none is known."""
    return max((each for each in away if each is not None), default=None)


def unfit(away: float | None, settled: int | None, sittings: int) -> str | None:
    """Say why no latency that was measured here may fail: a busy machine, a model that did not warm up; else None.

    ``away``: share of the time without a CPU. ``settled``: sittings in which the warm-up came to an end.
    """
    if away is not None and away > BUSY:
        return f"the CPU did something else for {100 * away:.0f} % of the time: the machine is busy"
    if settled is not None and 2 * settled < sittings:
        return f"the warm-up came to an end in {settled} of {sittings} sittings only"
    return None
