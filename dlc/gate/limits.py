"""What the gate holds a variant to, beside what its recipe declares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from dlc.errors import RecipeError
from dlc.recipe import Gates

Objective: TypeAlias = Literal["latency", "throughput"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """``recipe``: against FP32, as declared; its margin of accuracy also holds against the baseline.

    The others are factors of the baseline's: latency (or the time an example takes, where throughput is the objective),
    the file, and the peak resident set. ``concurrency``: calls at once, for throughput.
    """

    recipe: Gates = field(default_factory=Gates)
    objective: Objective = "latency"
    concurrency: int = 1
    max_slowdown: float = 1.05
    max_growth: float = 1.02
    max_memory_growth: float = 1.1

    def __post_init__(self) -> None:
        for name in ("max_slowdown", "max_growth", "max_memory_growth"):
            factor = getattr(self, name)
            if not 0 < factor < float("inf"):
                raise RecipeError(f"gate {name}={factor} is no factor: write 1.05 for 5 % more than the baseline's")
            if factor < 1:
                raise RecipeError(
                    f"gate {name}={factor} contradicts itself: the baseline could not hold it; write 1 or more"
                )
        if self.concurrency < 1:
            raise RecipeError(f"gate concurrency={self.concurrency}: at least one call runs at a time")
        if self.concurrency > 1 and self.objective == "latency":
            raise RecipeError(
                f"gates contradict each other: concurrency={self.concurrency} loads the machine that a latency is "
                f"measured on; state objective = 'throughput', or leave concurrency out"
            )
        if self.recipe.max_size_ratio is not None and self.recipe.max_size_ratio == 0:
            raise RecipeError("gate max_size_ratio=0: no file is that small")

    def margin(self, reference: float) -> float:
        """How far a metric may fall behind a reference's value, in the metric's unit."""
        if self.recipe.max_drop is not None:
            return self.recipe.max_drop
        return (1 - self.recipe.retention) * abs(reference)

    def slice_margin(self, reference: float) -> float:
        """How far it may fall behind on one slice, of which the reference has that value."""
        if self.recipe.slice_drop is not None:
            return self.recipe.slice_drop
        return (1 - self.recipe.slice_retention) * abs(reference)
