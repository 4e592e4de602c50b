"""The options of an ONNX Runtime session, as ``session.json`` records them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from dlc.errors import Unsupported
from dlc.types import Bytes

INLINE_LIMIT: Bytes = 1 << 30
"""Weights above this many bytes stay in external data, which ONNX Runtime can map (protobuf's own limit: 2 GiB)."""


SPINNING_STOP = "session.force_spinning_stop"
Level: TypeAlias = Literal["none", "basic", "extended", "all"]
"""How much ONNX Runtime rewrites a graph when it loads it."""


class SessionConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Options with which a model was measured; any ONNX Runtime binding can set them.

    ``graph_optimization`` is the load-time optimisation level; ``disabled_optimizers`` names load-time optimisers that
    must not run; ``entries`` are session configuration entries. ``execution_order`` "priority" runs the nodes in file
    order, if no optimiser moves them; ``mem_reuse`` off frees each buffer after its last reader; ``arena`` off leaves
    activations to malloc.
    """

    provider: Literal["cpu", "cuda"] = "cpu"
    intra_op_threads: int = 1
    graph_optimization: Level = "all"
    disabled_optimizers: tuple[str, ...] = ()
    entries: Mapping[str, str] = {}
    execution_order: Literal["default", "priority"] = "default"
    mem_reuse: bool = True
    mem_pattern: bool = True
    arena: bool = True


def resting(config: SessionConfig) -> SessionConfig:
    """Return options with which the threads of a session sleep as soon as its call ends.

    By default they spin on for a while, and take CPUs from the session that is timed next. Three sessions of digits-cnn
    in turns, with two threads on two CPUs: one strayed from its twin by 0.3 to 0.55 (root mean square of the logarithm
    over seven sittings), and resting by 0.006 to 0.009. ONNX Runtime, ``kOrtSessionOptionsConfigForceSpinningStop``.
    """
    if config.intra_op_threads == 1:
        return config
    return msgspec.structs.replace(config, entries={**config.entries, SPINNING_STOP: "1"})


def check_cpu(provider: str) -> None:
    """Raise Unsupported for a provider whose memory is neither planned nor held to a budget."""
    if provider != "cpu":
        raise Unsupported(f"memory is planned for the CPU provider, not for {provider}; compile with --provider cpu")
