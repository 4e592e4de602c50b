"""How large and how small the values of a graph become on data: what a 16-bit float must be able to hold.

Tensors are fetched some at a time, so that a graph of any depth is measured in bounded memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dlc.errors import ModelError
from dlc.inner import HELD, chunks, computed, tensor_bytes
from dlc.interface import Interface, sizes_of
from dlc.passes.cast_fp16 import Magnitude
from dlc.runtimes.probe import Probe
from dlc.types import Array, Bytes, Feeds

SMALLEST = 2.0**-25
"""Half of FP16's smallest number: what is nearer to zero is rounded to zero."""


@dataclass(slots=True)
class _Seen:
    largest: float = 0.0
    some: int = 0
    lost: int = 0

    def add(self, values: Array) -> None:
        """Take in the finite values that are not zero."""
        sizes = np.abs(values[np.isfinite(values)])
        self.largest = max(self.largest, float(sizes.max(initial=0.0)))
        self.some += int(np.count_nonzero(sizes))
        self.lost += int(np.count_nonzero((sizes > 0) & (sizes <= SMALLEST)))

    def result(self) -> Magnitude:
        return Magnitude(self.largest, self.lost / self.some if self.some else 0.0)


def magnitudes(model: ir.Model, feeds: Sequence[Feeds], *, held: Bytes = HELD) -> dict[str, Magnitude]:
    """Run some feeds and return how large each FP32 value of the main graph became; inputs are among them.

    A value that the runtime does not hand out is left out.
    """
    floats = {str(v.name) for v in _values(model) if v.dtype in (None, ir.DataType.FLOAT)}
    names = [n for n in (*(t.name for t in Interface.of(model).inputs), *computed(model)) if n in floats]
    largest = max(feeds, key=lambda each: sum(a.nbytes for a in each.values()))
    nbytes = tensor_bytes(model, sizes_of(Interface.of(model), largest))
    nbytes.update((name, array.nbytes) for name, array in largest.items())
    seen: dict[str, _Seen] = {}
    with Probe(model) as probe:
        for group in chunks(names, nbytes, held):
            _add(probe, group, feeds, seen)
    return {name: each.result() for name, each in seen.items()}


def _add(probe: Probe, names: Collection[str], feeds: Sequence[Feeds], seen: dict[str, _Seen]) -> None:
    try:
        for tensors in probe.fetch([*names], feeds):
            for name, array in tensors.items():
                if array.dtype == np.float32:
                    seen.setdefault(name, _Seen()).add(array)
    except ModelError:
        for name in names if len(names) > 1 else ():
            _add(probe, [name], feeds, seen)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    for node in model.graph:
        yield from node.outputs
