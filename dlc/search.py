"""Which units of a model compute in 8 bits: the best mix under an objective, found with few real measurements.

What is known beforehand of each unit u is what 8 bits cost on their own, ``loss[u]``, and what they save, ``saved[u]``;
of two neighbours, what they save once more if both are in 8 bits, for nothing is converted between them:

    saved(mix) = sum_u saved[u] + sum_(u, v) saved[u, v]        loss(mix) = sum_u loss[u]

The mixes that save most for what they lose are the solutions of an integer program at each budget of loss. They form a
path from FP32 to the fastest mix. Whether a mix of the path holds the objective is then measured, by bisection; what is
measured there also sets the scale of the predictions, and with it swaps around the best mix are tried while one is
predicted to be better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from dlc.errors import RecipeError
from dlc.integer_program import optimum
from dlc.manifest import Estimate, Record
from dlc.types import Bytes

Mix: TypeAlias = frozenset[str]
"""Names of the units that compute in 8 bits."""

BUDGETS = 48
"""Budgets of loss at which the path is solved, in equal steps of ratio: of 22 % where losses span four decades."""
WORTH = 0.01
"""A swap is tried if it is predicted to gain this share; less than that is not told from noise by one measurement."""
DONE = "no other mix is predicted to be better"
PATIENCE = 6
"""Swaps in a row that may turn out no better."""


class Measured(Record, frozen=True, kw_only=True):
    """A mix on the real kernels. ``ratio``: latency against FP32 in turns. ``kept``: share of FP32's quality.

    ``refuted``: why its outputs are of no use.
    """

    ms: float
    ratio: Estimate
    kept: Estimate
    bytes: int
    seconds: float
    refuted: str | None = None


@dataclass(frozen=True, slots=True)
class Objective:
    """What the mix must hold; one of the three, by default to keep 99.9 % of FP32.

    ``keep``: the fastest that keeps this share, as estimated on held-out data. ``within_ms``, ``within_bytes``:
    the most accurate that is no slower, or no larger.
    """

    keep: float | None = None
    within_ms: float | None = None
    within_bytes: Bytes | None = None

    def __post_init__(self) -> None:
        given = {k: v for k in ("keep", "within_ms", "within_bytes") if (v := getattr(self, k)) is not None}
        if len(given) > 1:
            raise RecipeError(f"a mix has one objective, not {' and '.join(given)}: leave all but one out")
        if not given:
            object.__setattr__(self, "keep", 0.999)
        if self.keep is not None and not 0 < self.keep <= 1:
            raise RecipeError(f"keep={self.keep} is no share: write 0.999 for 99.9 %")
        if any(not 0 < limit < np.inf for limit in (self.within_ms or 1, self.within_bytes or 1)):
            raise RecipeError("within a time or size of 0 or less there is no model")
        if 0 in given.values():
            raise RecipeError("within a time or size of 0 there is no model")

    def __str__(self) -> str:
        if self.keep is not None:
            return f"the fastest that keeps {100 * self.keep:g} % of FP32"
        if self.within_ms is not None:
            return f"the most accurate within {self.within_ms:g} ms"
        return f"the most accurate within {megabytes(self.within_bytes or 0)}"

    def holds(self, found: Measured) -> bool:
        """Whether a measured mix is what was asked for."""
        if found.refuted is not None:
            return False
        if self.keep is not None:
            return found.kept.value >= self.keep
        return found.ms <= self.within_ms if self.within_ms is not None else found.bytes <= (self.within_bytes or 0)

    def better(self, one: Measured, other: Measured) -> bool:
        """Whether one of two mixes that hold is the better."""
        return self.badness(one) < self.badness(other)

    def badness(self, found: Measured) -> float:
        """What is as small as can be in the best of those that hold."""
        return found.ratio.value if self.keep is not None else -found.kept.value


@dataclass(frozen=True, slots=True)
class Mixing:
    """How the variant ``mixed`` is searched: for what, with how many mixes measured, in how many seconds."""

    objective: Objective = field(default_factory=Objective)
    evaluations: int = 40
    seconds: float = 600.0

    def __post_init__(self) -> None:
        if self.evaluations < 1 or not self.seconds > 0:
            raise RecipeError(f"a search needs an evaluation and time, not {self.evaluations} in {self.seconds:g} s")


@dataclass(frozen=True, slots=True)
class Unit:
    """What computes in 8 bits as a whole, or does not."""

    name: str
    loss: float
    saved_ns: float
    saved_bytes: Bytes


@dataclass(frozen=True, slots=True)
class Link:
    """What two units save once more where both compute in 8 bits."""

    first: str
    second: str
    saved_ns: float


@dataclass(frozen=True, slots=True)
class Problem:
    """The units, in graph order, and how they depend on each other. ``by_size``: bytes are saved, not time."""

    units: Sequence[Unit]
    links: Sequence[Link] = ()
    by_size: bool = False

    def saved(self, mix: Mix) -> float:
        """What a mix is predicted to save, in nanoseconds or bytes."""
        alone = sum(self._of(u) for u in self.units if u.name in mix)
        if self.by_size:
            return alone
        return alone + sum(k.saved_ns for k in self.links if k.first in mix and k.second in mix)

    def loss(self, mix: Mix) -> float:
        """What a mix is predicted to lose, in the unit of the units' losses."""
        return sum(u.loss for u in self.units if u.name in mix)

    def most(self, budget: float) -> Mix:
        """Return the mix that saves most with at most this loss; of equals the one that loses least.

        max  saved·x + linked·y   s.t.  loss·x <= budget,  y[u, v] <= x[u], x[v],  x in {0, 1}
        """
        from scipy.sparse import csr_array

        links = [] if self.by_size else [k for k in self.links if k.saved_ns > 0]
        n, m, at = len(self.units), len(links), {u.name: i for i, u in enumerate(self.units)}
        losses = np.array([u.loss for u in self.units] + [0.0] * m)
        gains = np.array([self._of(u) for u in self.units] + [k.saved_ns for k in links])
        scale = np.abs(gains).max(initial=0.0) or 1.0
        tie = TIE * losses / (losses.max(initial=0.0) or 1.0)
        rows = np.repeat(np.arange(2 * m), 2)
        columns = [c for i, k in enumerate(links) for end in (k.first, k.second) for c in (n + i, at[end])]
        both = csr_array((np.tile([1.0, -1.0], 2 * m), (rows, columns)), shape=(2 * m, n + m))
        limits = [(losses / (budget or 1.0), 1.0 if budget else 0.0)]
        found = optimum(gains / scale - tie, [*limits, (both, 0.0)] if m else limits, free=m)
        if found is None:
            return frozenset()
        return frozenset(u.name for u, x in zip(self.units, found, strict=False) if x > 0.5)

    def path(self) -> list[Mix]:
        """Return the mixes that save most at growing budgets of loss, each but once; FP32 is not among them."""
        losses = [u.loss for u in self.units if u.loss > 0]
        if not losses:
            return [mix] if (mix := self.most(0.0)) else []
        budgets = [0.0, *np.geomspace(min(losses), sum(losses) * (1 + 1e-9), BUDGETS)]
        mixes = dict.fromkeys(filter(None, map(self.most, budgets)))
        return sorted(mixes, key=lambda mix: (self.loss(mix), self.saved(mix)))

    def _of(self, unit: Unit) -> float:
        return unit.saved_bytes if self.by_size else unit.saved_ns


TIE = 1e-7
"""Weight of the loss beside the savings, as shares of the largest: it decides between equals only."""

Evaluate: TypeAlias = Callable[[Mix], Measured]
"""Builds a mix and measures it on the real kernels, on data that chose nothing."""


@dataclass(frozen=True, slots=True)
class Found:
    """``best``: the mix that holds the objective, None if none does; then ``nearest`` came closest.

    ``measured``: every mix in the order it was evaluated. ``stopped``: why no more were.
    """

    best: Mix | None
    nearest: Mix | None
    measured: dict[Mix, Measured]
    stopped: str


@dataclass(slots=True)
class Search:
    """One search; ``seconds`` counts what its evaluations took, wherever and whenever they were made."""

    problem: Problem
    objective: Objective
    evaluate: Evaluate
    evaluations: int = 40
    seconds: float = 600.0
    measured: dict[Mix, Measured] = field(default_factory=dict)

    def run(self) -> Found:
        """Measure all units together, then the path by bisection, then swaps."""
        everything = frozenset(u.name for u in self.problem.units)
        stopped = DONE
        try:
            self._measure(everything)
            self._bisect(self.problem.path())
            if not self._swap():
                stopped = f"{PATIENCE} swaps in a row were no better"
        except _Stop as stop:
            stopped = str(stop)
        best = self._best()
        if best is None and stopped == DONE:
            stopped = "no mix of those that save most for what they lose holds"
        return Found(best, best or self._nearest(), dict(self.measured), stopped)

    def _measure(self, mix: Mix) -> Measured:
        if mix not in self.measured:
            if len(self.measured) >= self.evaluations:
                raise _Stop(f"{self.evaluations} mixes were evaluated")
            if sum(m.seconds for m in self.measured.values()) >= self.seconds:
                raise _Stop(f"the time of {self.seconds:g} s is spent")
            self.measured[mix] = self.evaluate(mix)
        return self.measured[mix]

    def _bisect(self, path: Sequence[Mix]) -> None:
        """Find where along the path the objective begins, or ceases, to hold."""
        loses = self.objective.keep is not None  # holds from the start of the path; a limit holds from its end
        low, high = -1, len(path)
        if path and self.objective.holds(self._measure(path[-1])) == loses:
            return
        while high - low > 1:
            middle = (low + high) // 2
            if self.objective.holds(self._measure(path[middle])) == loses:
                low = middle
            else:
                high = middle

    def _swap(self) -> bool:
        """Try neighbours of the best mix, the most promising first; whether none is left that promises anything."""
        failed = 0
        while failed < PATIENCE and (best := self._best()) is not None:
            promising = [(gain, mix) for mix in self._neighbours(best) if (gain := self._gain(mix, best)) > WORTH]
            if not promising:
                return True
            _, mix = max(promising, key=lambda each: (each[0], sorted(each[1])))
            found = self._measure(mix)
            improved = self.objective.holds(found) and self.objective.better(found, self.measured[best])
            failed = 0 if improved else failed + 1
        return failed < PATIENCE

    def _neighbours(self, mix: Mix) -> Iterator[Mix]:
        names = [u.name for u in self.problem.units]
        inside, outside = [n for n in names if n in mix], [n for n in names if n not in mix]
        ones = ([n] for n in names)
        pairs = ([a, b] for a in inside for b in outside)
        for changed in (*ones, *pairs):
            if (other := mix.symmetric_difference(changed)) and other not in self.measured:
                yield other

    def _gain(self, mix: Mix, best: Mix) -> float:
        """Share of what the objective improves that a neighbour is predicted to gain; 0 if it is predicted not to hold.

        Measured at the best mix, and from there by the predicted differences.
        """
        at, problem = self.measured[best], self.problem
        missing, lost = 1 - at.kept.value, problem.loss(best)
        shortfall = missing * problem.loss(mix) / lost if lost > 0 else missing
        saved = problem.saved(mix) - problem.saved(best)
        if self.objective.keep is not None:
            time = at.ms * 1e6 - saved
            return 1 - time / (at.ms * 1e6) if 1 - shortfall >= self.objective.keep else 0.0
        limit = self.objective.within_ms * 1e6 if self.objective.within_ms else float(self.objective.within_bytes or 0)
        now = at.ms * 1e6 if self.objective.within_ms else float(at.bytes)
        return 1 - problem.loss(mix) / lost if now - saved <= limit and lost > 0 else 0.0

    def _best(self) -> Mix | None:
        holding = [mix for mix, found in self.measured.items() if self.objective.holds(found)]
        return min(holding, key=lambda mix: self.objective.badness(self.measured[mix]), default=None)

    def _nearest(self) -> Mix | None:
        """Return the mix that misses the objective by least."""
        sound = {mix: m for mix, m in self.measured.items() if m.refuted is None} or self.measured
        if self.objective.keep is not None:
            return max(sound, key=lambda mix: sound[mix].kept.value, default=None)
        by_time = self.objective.within_ms is not None
        return min(sound, key=lambda mix: sound[mix].ms if by_time else sound[mix].bytes, default=None)


class _Stop(Exception):  # noqa: N818 - no error: the budget is spent
    """No further evaluation is allowed."""


def front(measured: Iterable[Measured], *, by_size: bool = False) -> list[Measured]:
    """Return those that no other beats on what is kept and on latency, or size, at once; the fastest first."""

    def cost(found: Measured) -> float:
        return found.bytes if by_size else found.ratio.value

    ahead: list[Measured] = []
    for each in sorted((m for m in measured if m.refuted is None), key=lambda m: (cost(m), -m.kept.value)):
        if not ahead or each.kept.value > ahead[-1].kept.value:
            ahead.append(each)
    return ahead


def megabytes(size: Bytes) -> str:
    """Write a size in units of 10^6 bytes."""
    return f"{size / 1e6:.4g} MB"
