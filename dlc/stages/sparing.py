"""Which nodes int8 leaves in FP32: a run of neighbours that makes much of the noise, and saves next to no time.

Early convolutions see few channels of large images: 8 bits save little there, and what they lose goes through all that
follows. Neighbours are spared together, for each border between 8 bits and FP32 costs a conversion.

All nodes that compute in 8 bits are cut in two, in graph order, and both halves are measured: how much of the noise is
gone, on the real kernels and one batch, with this half in FP32. The half at which more is gone is cut again, down to
one node. Of the runs on that way, the one is kept with which most is gone and whose price is within bounds: what it
adds to the time, measured on the whole model, and to the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from dlc.costs import Costs
from dlc.errors import NotHere
from dlc.passes.base import Pass, weight_bytes
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.passes.quantize_static import QuantizeStatic
from dlc.recipe import Recipe
from dlc.report.numbers import shorten
from dlc.stages.noise import Noise
from dlc.stages.recovering import applied, closeness
from dlc.stages.workshop import leaving, quantized

LEAST = 1 / 4
"""Share of the noise that must be gone: less is not worth a graph of two precisions."""
ROOM = 1 / 32
"""What FP32 may add to the time of a call, as a share of it; and to the bytes of the weights."""


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbours in graph order, and the share of the noise that is gone with them in FP32."""

    names: Sequence[str]
    gone: float


def spared(model: ir.Model, passes: list[Pass], recipe: Recipe, costs: Costs) -> list[Pass]:
    """Return passes of int8 that leave such a run in FP32, if there is one and it can be measured; else these."""
    data, quick = recipe.calibration, _unlearned(passes)
    if data is None or quick is None or "spare-nodes" not in recipe.int8.recover:
        return passes
    plain, noise = applied(model, quick), Noise.against(model, data, costs.config)
    whole = noise.of(plain)

    def gone(chosen: Sequence[str]) -> float:
        return 1 - noise.of(applied(model, leaving(quick, chosen))) / whole

    where = costs.target.threads, costs.target.provider
    known = closeness(model, quick, data, *where)
    for run in sorted(descent(gone, quantized(model, quick)), key=lambda r: r.gone, reverse=True):
        form = leaving(quick, run.names)
        if run.gone < LEAST or not _affordable(plain, applied(model, form), costs):
            continue
        if (found := closeness(model, form, data, *where)).beats(known):
            gain = found.overall.sqnr_db - known.overall.sqnr_db
            return _noted(leaving(passes, run.names), f"{_named(run)} in FP32 for accuracy: {gain:.1f} dB closer to it")
    return passes


def descent(gone: Callable[[Sequence[str]], float], names: Sequence[str]) -> Iterator[Run]:
    """Yield the better half of the names, its better half, and so on down to one name."""
    while len(names) > 1:
        half = (len(names) + 1) // 2
        best = max((Run(part, gone(part)) for part in (names[:half], names[half:])), key=lambda run: run.gone)
        yield best
        names = best.names


def _affordable(before: ir.Model, after: ir.Model, costs: Costs) -> bool:
    """Whether a model is larger and slower by no more than there is room for; False where it cannot be timed."""
    if weight_bytes(after) > (1 + ROOM) * weight_bytes(before):
        return False
    try:
        return costs.whole(before, after).ratio.value <= 1 + ROOM
    except NotHere:
        return False


def _unlearned(passes: Sequence[Pass]) -> list[Pass] | None:
    """Return the same without learned rounding, which takes long and has no part in the choice; None if not of int8."""
    *before, last = passes
    return (
        [*before, replace(last, learn_rounding=False)] if isinstance(last, QuantizeDynamic | QuantizeStatic) else None
    )


def _noted(passes: Sequence[Pass], note: str) -> list[Pass]:
    *before, last = passes
    assert isinstance(last, QuantizeDynamic | QuantizeStatic)
    return [*before, replace(last, notes=(*last.notes, note))]


def _named(run: Run) -> str:
    first, *others = map(shorten, run.names)
    return f"{first} to {others[-1]} ({len(run.names)} nodes)" if others else first
