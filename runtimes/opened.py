"""Open a model on the provider that its session options name."""

from __future__ import annotations

import onnx_ir as ir

from dlc.lookup import load
from dlc.runtimes import RUNTIMES
from dlc.runtimes.base import Runner
from dlc.runtimes.session import SessionConfig


def opened(model: ir.Model, config: SessionConfig) -> Runner:
    """Return a runner of the provider; CapabilityError if it is not available."""
    runner: Runner = load(RUNTIMES[config.provider])(model, config)
    return runner
