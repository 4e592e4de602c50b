"""Session options as ONNX Runtime's other languages take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dlc.runtimes.session import SessionConfig

DISABLED = "optimization.disable_specified_optimizers"
"""The session entry that takes names of optimisers, separated by semicolons."""
LEVELS = {"none": "disabled", "basic": "basic", "extended": "extended", "all": "all"}


def entries(config: SessionConfig) -> list[tuple[str, str]]:
    """Return the session entries, among them the one that disables optimisers: only Python has another way to."""
    disabled = [(DISABLED, ";".join(config.disabled_optimizers))] if config.disabled_optimizers else []
    return [*config.entries.items(), *disabled]


def for_javascript(config: SessionConfig) -> dict[str, Any]:
    """Return the options as onnxruntime-node and onnxruntime-web take them."""
    options: dict[str, Any] = {
        "executionProviders": [config.provider],
        "graphOptimizationLevel": LEVELS[config.graph_optimization],
        "intraOpNumThreads": config.intra_op_threads,
        "interOpNumThreads": 1,
        "executionMode": "sequential",
    }
    if found := entries(config):
        options["extra"] = _nested(found)
    return options


def _nested(found: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Turn ``session.x`` into ``{"session": {"x": …}}``, from which the interface makes it again."""
    tree: dict[str, Any] = {}
    for key, value in found:
        *path, last = key.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = value
    return tree
