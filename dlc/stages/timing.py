"""Times the variants of a compile as a gate does: in sittings, in turns with the baseline, and that beside itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from dlc.harness.measure import LEAST_ROUNDS, summarise
from dlc.harness.ratios import ratio, spread
from dlc.harness.sittings import SITTINGS, Sittings, opener, sit
from dlc.manifest import Latency
from dlc.progress import Progress, track
from dlc.runtimes.base import Runner
from dlc.types import Feeds

ROUNDS = 29
"""In each sitting: 203 samples of each model, of which p10 and p90 may be stated."""
MAX_SECONDS = 60.0
"""Of timing all variants side by side, unless the least rounds take longer."""


@dataclass(frozen=True, slots=True)
class Timed:
    """All sittings. ``pinned``: on one CPU that the system kept for them."""

    sittings: Sittings

    @property
    def pinned(self) -> bool:
        """Whether the models were timed on one CPU that the system kept for them."""
        return all(s.one_thread for s in self.sittings.each)

    def latency(self, name: str) -> Latency:
        """Put on record how one model did; its ratio is taken to be no steadier than the baseline is beside itself."""
        logs, floor = self.sittings.logs(name), spread(self.sittings.again)
        record = summarise(self.sittings.wall(name), ratio(logs, floor))
        return msgspec.structs.replace(record, logs=logs, settled=self.sittings.settled(name))


def time(
    runners: Mapping[str, Callable[[], Runner]], baseline: str, feeds: Feeds, *, rng: np.random.Generator,
    progress: Progress,
) -> Timed:  # fmt: skip
    """Time all models; slow ones in fewer rounds, together no fewer than ``LEAST_ROUNDS``."""
    progress.stage("measure latency", SITTINGS)
    found = sit(
        opener(runners, baseline, drawn=True), feeds, rounds=ROUNDS, least=-(-LEAST_ROUNDS // SITTINGS),
        max_seconds=MAX_SECONDS / SITTINGS, rng=rng,
    )  # fmt: skip
    return Timed(Sittings(list(track(progress, found)), baseline))
