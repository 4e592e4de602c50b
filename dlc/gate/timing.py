"""Times all models of a gate, in sittings with sessions of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from dlc.artifact import read_golden
from dlc.bench import sizes_to_time
from dlc.gate.observation import Timing
from dlc.gate.subjects import Judged, seeded
from dlc.harness import sittings
from dlc.harness.measure import can_pin, pinned
from dlc.harness.memory import Rss
from dlc.harness.ratios import ratio, spread
from dlc.harness.sittings import AGAIN, Load, Sittings
from dlc.harness.statistics import percentile
from dlc.interface import Interface
from dlc.progress import Progress, track
from dlc.types import Feeds, Floats

RECORDED = 3 * sittings.SITTINGS
"""Sittings of a baseline, which is measured once and compared with often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """``variants``: None for all. ``dims``: sizes to time at, where not the recipe's typical ones.

    ``sittings``: how many there are of each model.
    """

    variants: tuple[str, ...] | None = None
    seed: int = 0
    objective: str = "latency"
    concurrency: int = 1
    dims: Mapping[str, int] = field(default_factory=dict)
    sittings: int = sittings.SITTINGS

    def recording(self) -> Self:
        """Return the same for a baseline: with more sittings."""
        return replace(self, sittings=RECORDED)


@dataclass(frozen=True, slots=True)
class Timed:
    """All sittings, the inputs that were fed, and the single calls of each model in milliseconds."""

    feeds: Feeds
    dims: Mapping[str, int]
    sittings: Sittings
    calls: Mapping[str, Floats]

    @property
    def again_throughput(self) -> tuple[float, ...]:
        """The same of examples per second: wall clock over short windows, and noisier; () where none were counted."""
        return self._throughput(AGAIN)

    @property
    def reference_ms(self) -> float:
        """The reference's fastest sample, of the middle sitting, in milliseconds."""
        return float(np.median([s.fastest_ms(self.sittings.reference) for s in self.sittings.each]))

    def timing(self, name: str, start: Rss) -> Timing:
        """Put on record how one model did."""
        logs = self.sittings.logs(name)
        throughput, calls = self._throughput(name), self.calls[name]
        return Timing(
            logs=logs, ratio=ratio(logs, spread(self.sittings.again)), calls=len(calls),
            p50_ms=float(np.median(calls)), p90_ms=percentile(calls, 90), p99_ms=percentile(calls, 99),
            load_ms=start.load_ms, first_ms=start.first_ms,
            warm_up=max(s.samples[name].warm_up for s in self.sittings.each), settled=self.sittings.settled(name),
            throughput=throughput,
            per_second=float(np.median([s.per_second[name] for s in self.sittings.each])) if throughput else None,
        )  # fmt: skip

    def _throughput(self, name: str) -> tuple[float, ...]:
        """Log of a model's examples per second against the reference's, of each sitting."""
        names = (name, self.sittings.reference)
        rates, base = ([s.per_second.get(n, 0.0) for s in self.sittings.each] for n in names)
        counted = min([*rates, *base]) > 0
        return tuple(float(np.log(a / b)) for a, b in zip(rates, base, strict=True)) if counted else ()


def time(everyone: Sequence[Judged], interface: Interface, how: How, progress: Progress) -> Timed:
    """Time every model against the reference, the first, and the reference against itself."""
    reference, rng = everyone[0], np.random.default_rng(how.seed)
    dims = sizes_to_time(interface, read_golden(reference.subject.folder)[0][0], how.dims)
    feeds = seeded(reference, interface, dims, how.seed)
    examples = next((len(a) for a in feeds.values() if a.ndim), 1)
    load = Load(how.concurrency, examples) if how.objective == "throughput" else None
    opened = sittings.opener({s.name: s.subject.among_others for s in everyone}, reference.name)
    progress.stage("measure latency", how.sittings)
    found = list(track(progress, sittings.sit(opened, feeds, count=how.sittings, load=load, rng=rng)))
    calls: dict[str, Floats] = {}
    with opened(rng) as runners, pinned(only=can_pin(runners.values())):
        for name, runner in runners.items():
            if name != AGAIN:
                calls[name] = sittings.distribution(lambda infer=runner.infer: infer(feeds))  # type: ignore[misc]
    return Timed(feeds, dims, Sittings(found, reference.name), calls)
