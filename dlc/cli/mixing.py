"""Options of the variant ``mixed``, for the verbs that build it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
NAMES = ("keep", "within_ms", "within_size", "evaluations", "time_budget")


def mixing(function: F) -> F:
    """Add the options; the function gets them together, as the mapping ``mixing``."""

    @click.option("--keep", type=float, help="mixed: the fastest that keeps this share of FP32. Default: 0.999.")
    @click.option("--within-ms", type=float, help="mixed: the most accurate that takes at most so many milliseconds.")
    @click.option("--within-size", help="mixed: the most accurate whose file is no larger, e.g. 8MB.")
    @click.option("--evaluations", type=click.IntRange(1), help="mixed: most mixes that are measured. Default: 40.")
    @click.option("--time-budget", help="mixed: longest time they may take, e.g. 10min, the default.")
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        stated = {name: kwargs.pop(name) for name in NAMES}
        return function(*args, mixing=stated, **kwargs)

    return wrapped  # type: ignore[return-value]
