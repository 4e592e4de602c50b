"""Which products take 8 bits where the others take 4: those at which a byte buys most.

What rounding costs is seldom spread evenly: a few products often make most of the noise, which is the energy of the
outputs' error as a share of their own. What a group of products buys with 8 bits is measured: how much less noise there
is, on the real kernels and one batch, with this group in 8 bits and the others in 4. The group that buys most is cut in
two and both halves are measured, again and again, all products being the first. What groups buy adds up as long as
their errors know nothing of each other: those that buy most together, as far as there is room, are taken.

The result is kept only if it is closer on all data that it is given beyond doubt, and if the noise falls by more than
``WORTH`` times the share of the weights that were widened: of products drawn at random it falls by their share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from dlc.integer_program import optimum
from dlc.passes.base import weight_bytes
from dlc.passes.quantize_weights import QuantizeWeights
from dlc.passes.weighted import label
from dlc.recipe import Dataset
from dlc.runtimes.session import SessionConfig
from dlc.stages.noise import Noise
from dlc.stages.recovering import applied, closeness
from dlc.types import Bytes

ROOM = 1 / 16
"""What 8 bits may add to the bytes of a model in 4 bits, as a share of them."""
LOOKS = 32
"""Groups that are measured, each by one run of a batch: sixteen cuts, of which eight isolate one of 256 products."""
NARROW, WIDE = 4, 8
WORTH = 1.75
"""Share of the noise that widened products must take away, in shares of the weights that they have.

A judgement, made on one model: what SmolLM2's perplexity needs most takes away 1.82 shares. Tables are asked the same.
"""


@dataclass(frozen=True, slots=True)
class Group:
    """Products in graph order, the noise that 8 bits take away, and the bytes that they add."""

    names: Sequence[str]
    gain: float
    cost: Bytes


def widened(model: ir.Model, form: QuantizeWeights, data: Dataset, config: SessionConfig) -> QuantizeWeights:
    """Return the form with 8 bits for some products, if that is worth its bytes."""
    asked = replace(form, known={})
    narrow = applied(model, asked)
    costs, room = _costs(model, narrow), int(ROOM * weight_bytes(narrow))
    total = sum(costs.values())
    if all(cost > room for cost in costs.values()):
        return form
    noise = Noise.against(model, data, config)

    def left(wide: Sequence[str]) -> float:
        return noise.of(applied(model, replace(asked, wide=tuple(wide))))

    all_narrow = left(())

    def measured(names: Sequence[str]) -> Group:
        return Group(names, all_narrow - left(names), sum(costs[n] for n in names))

    chosen = affordable(groups(measured, list(costs)), room)
    if not chosen:
        return form
    wide = tuple(n for n in costs if n in chosen)
    threads, forms = config.intra_op_threads, (asked, replace(asked, wide=wide))
    before, after = (closeness(model, each, data, threads, config.provider) for each in forms)
    gain = after.overall.sqnr_db - before.overall.sqnr_db
    if not after.beats(before) or 1 - 10 ** (-gain / 10) < WORTH * sum(costs[n] for n in chosen) / total:
        return form
    note = (
        f"{len(chosen)} of {len(costs)} products take {WIDE} bits: {gain:.1f} dB closer to FP32 on the calibration data"
    )
    return replace(form, wide=wide, notes=(*form.notes, note))


def groups(measured: Callable[[Sequence[str]], Group], names: Sequence[str], looks: int = LOOKS) -> list[Group]:
    """Cut names into groups, always the one that gains most, as often as ``looks`` measurements allow."""
    found = [Group(names, 0.0, 0) if len(names) > 1 else measured(names)]
    for _ in range(looks // 2):
        best = max((g for g in found if len(g.names) > 1), key=lambda g: g.gain, default=None)
        if best is None:
            break
        found.remove(best)
        half = len(best.names) // 2
        found += map(measured, (best.names[:half], best.names[half:]))
    return found


def affordable(found: Sequence[Group], room: Bytes) -> set[str]:
    """Return the names of the groups that gain most together, of those whose bytes there is room for: a knapsack.

    max  gain·x   s.t.  cost·x <= room,  x in {0, 1}
    """
    fitting = [g for g in found if g.gain > 0 and g.cost <= room]
    if not fitting:
        return set()
    gains, costs = np.array([g.gain for g in fitting]), np.array([g.cost for g in fitting])
    best = optimum(gains / gains.max(), [(costs / room, 1.0)])
    if best is None:
        return set()
    return {name for group, x in zip(fitting, best, strict=True) if x > 0.5 for name in group.names}


def _costs(model: ir.Model, narrow: ir.Model) -> dict[str, Bytes]:
    """Bytes that 8 bits add to each product of 4 bits, in graph order: as many again as its levels and zero points."""
    packed = {str(n.outputs[0].name): n for n in narrow.graph if n.op_type == "MatMulNBits" and _bits(n) == NARROW}
    found, seen = dict[str, Bytes](), set[ir.Value]()
    for node in model.graph:
        made = packed.get(str(node.outputs[0].name))
        stored = [] if made is None else [v for v in made.inputs[1:4:2] if v is not None and v not in seen]
        if stored and (size := sum(v.const_value.nbytes for v in stored if v.const_value is not None)):
            seen.update(stored)
            found[label(node)] = size
    return found


def _bits(node: ir.Node) -> int:
    return node.attributes.get_int("bits", NARROW)
