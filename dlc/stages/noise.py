"""How far a changed model's outputs are from FP32's, on one batch: a quick look for choosing among many forms."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import onnx_ir as ir

from dlc.harness.agreement import AgreementMeter
from dlc.recipe import Dataset
from dlc.runtimes.opened import opened
from dlc.runtimes.session import SessionConfig
from dlc.types import Feeds, Outputs


@dataclass(frozen=True, slots=True)
class Noise:
    """The first batch of a data set, and what FP32 makes of it."""

    feeds: Feeds
    stated: Outputs
    config: SessionConfig

    @classmethod
    def against(cls, model: ir.Model, data: Dataset, config: SessionConfig) -> Noise:
        """Run FP32 on the first batch."""
        [feeds] = islice(iter(data.batches()), 1)
        with opened(model, config) as fp32:
            return cls(feeds, fp32.run(feeds), config)

    def of(self, changed: ir.Model) -> float:
        """Return the energy of the error of the worst output, as a share of that of the output; above 0."""
        meter = AgreementMeter()
        with opened(changed, self.config) as runner:
            meter.add(runner.run(self.feeds), self.stated, batch=1)
        return float(10 ** (-meter.result().sqnr_db / 10))
