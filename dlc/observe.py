"""Shows the inner values of a model over a data set, in bounded memory.

A value can be seen only if it is an output, and all outputs of a run are alive at once. So values are exposed in
groups, in graph order, as many at a time as fit: each group is one run over the data, of the part of the graph that
it needs. How large values are the graph states; where it does not, one run with their shapes as outputs tells, which
takes no memory to speak of. Both are asked again when a batch is larger than all before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dlc.calibration import MAX_RAM
from dlc.errors import DataError, UserError
from dlc.histogram import extremes_of
from dlc.interface import Interface, sizes_of
from dlc.passes.base import clone
from dlc.runtimes.base import check_finite
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.types import Array, Bytes, Feeds

MIB: Bytes = 1 << 20
UNKNOWN: Bytes = 8
"""Bytes of an element whose type the graph does not state: those of the widest."""

Reader: TypeAlias = Callable[[], Iterable[Feeds]]
Batches: TypeAlias = Callable[[], Iterable[Feeds]] | Iterable[Feeds]
"""A function that yields the batches anew for each run over the data; an iterator serves one run only."""


class Observer(Protocol):
    """Keeps something of the values that it is shown."""

    nbytes: Bytes

    def add(self, values: Array, extremes: tuple[float, float]) -> None:
        """Take in finite values, at least one, whose least and largest are known."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What was kept of each value, and in how many runs over the data."""

    of: Mapping[str, Sequence[Any]]
    runs: int


def observe(
    model: ir.Model, batches: Batches, wanted: Mapping[str, Callable[[], Sequence[Observer]]],
    *, threads: int = 1, max_ram: Bytes = MAX_RAM,
) -> Observed:  # fmt: skip
    """Run the data through clones of a model and show each named value to observers of its own.

    DataError if a value holds NaN or infinity; UserError for a name the model lacks, or one value that needs more than
    ``max_ram``. Values may be shown again to fresh observers when a batch is larger than those before.
    """
    read, config = _reader(batches), SessionConfig(intra_op_threads=threads)
    watch = _Watch(model, in_order(model, wanted), config, max_ram)
    pending, found, runs = watch.names, dict[str, Sequence[Observer]](), 0
    while pending:
        observers = {name: wanted[name]() for name in pending}
        kept = {name: sum(o.nbytes for o in each) for name, each in observers.items()}
        group = watch.fitting(pending, kept)
        try:
            watch.show(group, read, observers)
        except _LargerError:
            continue
        found.update((name, observers[name]) for name in group)
        pending, runs = pending[len(group) :], runs + 1
    return Observed({name: found[name] for name in wanted}, runs)


def in_order(model: ir.Model, names: Collection[str]) -> list[str]:
    """Return the names in graph order, inputs first; UserError for one that the model lacks."""
    values = (*model.graph.inputs, *(v for node in model.graph for v in node.outputs))
    place = {v.name: i for i, v in enumerate(values)}
    if missing := [name for name in names if name not in place]:
        raise UserError(f"cannot calibrate {missing[0]!r}: the model has no value of that name")
    return sorted(names, key=place.__getitem__)


class _LargerError(Exception):
    """A batch is larger than those that the group was chosen for, and the group does not fit any more."""


@dataclass(slots=True)
class _Watch:
    """Runs groups of values of one model. ``sizes``: the largest of each value so far; ``probed``: shapes of feeds."""

    model: ir.Model
    names: list[str]
    config: SessionConfig
    max_ram: Bytes
    sizes: dict[str, Bytes] = field(default_factory=dict)
    probed: list[dict[str, tuple[int, ...]]] = field(default_factory=list)

    def fitting(self, names: Sequence[str], kept: Mapping[str, Bytes]) -> list[str]:
        """Return as many names, from the first, as fit into memory; UserError if not even one does."""
        total = 0
        for i, name in enumerate(names):
            total += self.sizes.get(name, 0) + kept[name]
            if total > self.max_ram:
                if i == 0:
                    raise UserError(
                        f"to calibrate {name!r} takes {total / MIB:.1f} MiB with a batch of this size, and at most "
                        f"{self.max_ram / MIB:.1f} MiB may be used: make the batches smaller, or raise --max-ram"
                    )
                return list(names[:i])
        return list(names)

    def show(self, group: Sequence[str], read: Reader, observers: Mapping[str, Sequence[Observer]]) -> None:
        """Run the data once and show a group's values to their observers."""
        kept = {name: sum(o.nbytes for o in observers[name]) for name in group}
        with closing(self._values(group, kept, read)) as batches:
            for i, values in batches:
                self._check_fit(group, {name: values[name].nbytes for name in group}, kept)
                for name in group:
                    array = values[name]
                    if array.size:
                        extremes = _finite(name, i, array)
                        for each in observers[name]:
                            each.add(array, extremes)
                del values, array  # the session's arena is empty when the next batch is run

    def _values(
        self, group: Sequence[str], kept: Mapping[str, Bytes], read: Reader
    ) -> Generator[tuple[int, dict[str, Array]]]:
        inputs = {v.name for v in self.model.graph.inputs}
        part = revealing(self.model, [name for name in group if name not in inputs])
        with ExitStack() as stack:
            runner: OrtCpuRunner | None = None
            for i, feeds in enumerate(read()):
                check_finite(feeds, f"calibration batch {i}")
                self._probe(feeds, group, kept)
                runner = runner or stack.enter_context(_Revealing(part, self.config))
                yield i, {**runner.run(feeds), **{name: feeds[name] for name in group if name in inputs}}

    def _probe(self, feeds: Feeds, group: Sequence[str], kept: Mapping[str, Bytes]) -> None:
        """Learn how large every value is, unless a batch at least as large was seen."""
        shapes = {name: array.shape for name, array in feeds.items()}
        if any(_no_larger(shapes, known) for known in self.probed):
            return
        found = stated_sizes(self.model, self.names, feeds)
        if unknown := [name for name in self.names if name not in found]:
            found |= probed_sizes(self.model, unknown, feeds, self.config)
        self.probed.append(shapes)
        self._check_fit(group, found, kept)

    def _check_fit(self, group: Sequence[str], found: Mapping[str, Bytes], kept: Mapping[str, Bytes]) -> None:
        """Take in what values need; _LargerError if the group does not fit any more."""
        for name, size in found.items():
            self.sizes[name] = max(self.sizes.get(name, 0), size)
        if len(self.fitting(group, kept)) < len(group):
            raise _LargerError


class _Revealing(OrtCpuRunner):
    """Without the plan that ONNX Runtime makes of a first run, which would take the memory of the outputs twice."""

    def configure(self, options: Any) -> None:
        options.enable_mem_pattern = False


def revealing(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """Return the part of a model that computes the named values, as its outputs; without any, the model as it is."""
    part = clone(model)
    if names:
        values = {v.name: v for node in part.graph for v in node.outputs}
        part.graph.outputs[:] = [values[name] for name in names]
        RemoveUnusedNodesPass()(part)
    return part


def stated_sizes(model: ir.Model, names: Collection[str], feeds: Feeds) -> dict[str, Bytes]:
    """Return how many bytes each named value takes, as far as its shape is stated in the sizes of the inputs."""
    interface = Interface.of(model)
    interface.check_feeds(feeds)
    extents, sizes = sizes_of(interface, feeds), {name: feeds[name].nbytes for name in names if name in feeds}
    for value in (v for node in model.graph for v in node.outputs if v.name in names):
        if value.shape is None or value.dtype is None:
            continue
        shape = [d if isinstance(d, int) else extents.get(str(d.value)) for d in value.shape]
        if None not in shape:
            sizes[str(value.name)] = math.ceil(math.prod(d or 0 for d in shape) * value.dtype.itemsize)
    return sizes


def probed_sizes(model: ir.Model, names: Sequence[str], feeds: Feeds, config: SessionConfig) -> dict[str, Bytes]:
    """Return how many bytes each named inner value takes, as one run tells by their shapes alone."""
    probe = revealing(model, names)
    values = list(probe.graph.outputs)
    shapes = [ir.node("Shape", [value], name=f"dlc.shape.{i}") for i, value in enumerate(values)]
    for node in shapes:
        node.outputs[0].name, node.outputs[0].type = node.name, ir.TensorType(ir.DataType.INT64)
    probe.graph.extend(shapes)
    probe.graph.outputs[:] = [node.outputs[0] for node in shapes]
    with OrtCpuRunner(probe, config) as runner:
        found = runner.run(feeds).values()
    widths = [v.dtype.itemsize if v.dtype is not None else UNKNOWN for v in values]
    return {name: math.ceil(np.prod(s) * w) for name, s, w in zip(names, found, widths, strict=True)}


def _reader(batches: Batches) -> Reader:
    """Return a function that reads the data from its start; UserError where an iterator cannot do that again."""
    if callable(batches):
        return batches
    if iter(batches) is not batches:
        return lambda: batches
    once = [batches]

    def read() -> Iterable[Feeds]:
        if not once:
            raise UserError("calibration takes several runs over the data: give a function that yields it anew")
        return once.pop()

    return read


def _no_larger(shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, tuple[int, ...]]) -> bool:
    return all(len(a) == len(b) and all(map(int.__le__, a, b)) for a, b in ((s, known[n]) for n, s in shapes.items()))


def _finite(name: str, batch: int, values: Array) -> tuple[float, float]:
    extremes = extremes_of(values)
    if not np.isfinite(extremes).all():
        raise DataError(
            f"calibration batch {batch}: {name!r} holds NaN or infinity; "
            f"the model overflows on this data, or the data is not scaled as the model expects"
        )
    return extremes
