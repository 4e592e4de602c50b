"""What ONNX Runtime does to a graph when it loads it: the level of its own optimisations, measured like a rewrite.

Rewrites are chosen as a default session loads them, so a model file is fast without any option. Where another level is
measured to be faster still, ``session.json`` says so.
"""

from __future__ import annotations

import msgspec
import onnx_ir as ir

from dlc.costs import NOISE, Costs
from dlc.errors import ModelError, NotHere
from dlc.manifest import Choice
from dlc.runtimes.session import Level, SessionConfig

LEVELS: tuple[Level, ...] = ("extended", "basic", "none")


def session_for(model: ir.Model, costs: Costs) -> tuple[SessionConfig, tuple[Choice, ...]]:
    """Return the session options for a model, and what was measured to choose them."""
    options = [msgspec.structs.replace(costs.config, graph_optimization=level) for level in LEVELS]
    try:
        measured = [(costs.loaded(model, config), config) for config in options]
    except (ModelError, NotHere):
        return costs.config, ()
    cost, config = min(measured, key=lambda each: each[0].ratio.value)
    kept = cost.ratio.high < 1 - NOISE
    choice = Choice(
        rewrite=f"graph_optimization={config.graph_optimization}", kept=kept, ratio=cost.ratio,
        reason="faster than a default session" if kept else "no faster than a default session",
    )  # fmt: skip
    return config if kept else costs.config, (choice,)
