"""Which model runs which batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dlc.interface import Interface, TensorType
from dlc.recipe import Dataset
from dlc.runtimes.base import Runner
from dlc.stages.mixing import halves
from dlc.stages.workshop import InTurns
from dlc.types import Feeds, Outputs

X = TensorType("x", "float32", ("n",))


@dataclass
class Memory(Runner):
    """Remembers what it was given."""

    interface: Interface
    seen: list[float]

    def infer(self, feeds: Feeds) -> Outputs:
        self.seen.extend(feeds["x"])
        return {"x": feeds["x"]}


def test_each_half_is_run_by_the_model_that_the_other_half_calibrated() -> None:
    batches = [{"x": np.array([i], np.float32)} for i in range(5)]
    whole = Dataset("numbers", lambda: iter(batches))
    chooses, judges = ([float(f["x"][0]) for f in half.batches()] for half in halves(whole))
    interface = Interface((X,), (X,))
    by_judges, by_chooses = Memory(interface, []), Memory(interface, [])  # named for what calibrated them
    turns = InTurns(interface, [by_judges, by_chooses])
    for feeds in whole.batches():
        turns.run(feeds)
    assert by_judges.seen == chooses
    assert by_chooses.seen == judges
