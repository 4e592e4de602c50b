"""Sessions on the CPU whose runs allocate as planned, and the allocations that a run makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir

from dlc.allocations import Event, Planned, ShapeKey
from dlc.errors import CapabilityError, DataError
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.planned_library import SMALLER, Counts, Handle, Library, library
from dlc.runtimes.session import SessionConfig
from dlc.types import Feeds, Outputs

FOLLOWED = SessionConfig(graph_optimization="none", execution_order="priority", mem_reuse=False, mem_pattern=False)
"""Nodes in file order, and each buffer freed after its last reader: what a plan is made for."""
SLABS = 8
"""Runs of a session that can be under way at a time, each in an arena of its own; a further one takes malloc."""


@dataclass(frozen=True, slots=True)
class Tier:
    """How a session holds activations: at planned offsets, or by session options alone for the stated reason."""

    name: Literal["planned", "options"]
    reason: str = ""


class AllocatingRunner(OrtCpuRunner):
    """A session that takes its memory from the library; CapabilityError if it is opened where that cannot be."""

    def __init__(self, model: ir.Model | Path, config: SessionConfig = FOLLOWED):
        super().__init__(model, config)
        self.library: Library | None = None

    def open(self) -> None:
        """Build and load the library, then create the session."""
        self.library = library()
        super().open()

    def configure(self, options: Any) -> None:
        """Have ONNX Runtime register the allocator, and the session use it; CapabilityError if it refuses."""
        if self.library is not None:
            try:
                options.register_custom_ops_library(str(self.library.path))
            except Exception as error:
                raise CapabilityError(f"ONNX Runtime refuses the library: {error}") from error
            options.add_session_config_entry("session.use_env_allocators", "1")

    def events(self, feeds: Feeds) -> tuple[Event, ...]:
        """Return what a run allocates and frees, in order; outputs are not freed within it."""
        import onnxruntime

        assert self.library is not None
        self.interface.check_feeds(feeds)
        values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        events: list[Event] = []
        with self.library.traced(events):
            outputs = self._session.run_with_ort_values(self._outputs, values)
        del outputs  # not before: what is freed within the run does not escape it
        return tuple(events)


@dataclass(frozen=True, slots=True)
class _Choice:
    """Where runs with inputs of these shapes lie; ``handle`` None: there is no plan for them."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    handle: Handle | None
    how: int


class PlannedRunner(AllocatingRunner):
    """A session whose runs follow a plan if one is for the shapes of their inputs; ``tier`` says what is in force.

    Shapes without a plan of their own lie in the smallest arena that is planned for shapes no smaller in any dimension.
    A plan is for the nodes of this file in file order: ``config`` keeps ONNX Runtime from changing either.
    Any number of threads may run it; it may be closed when none does.
    """

    def __init__(
        self, model: ir.Model | Path, plans: Sequence[Planned], config: SessionConfig = FOLLOWED, *, slabs: int = SLABS
    ):
        super().__init__(model, config)
        self.plans = tuple(plans)
        self.slabs = slabs
        self._handles: dict[ShapeKey, Handle] = {}
        self._choice = NONE
        self._reason = ""

    def open(self) -> None:
        """Create the session, on options alone where the library is missing; DataError if a plan cannot be for it."""
        self.library, self._reason = None, "there is no plan"
        if self.plans:
            try:
                self.library, self._reason = library(), ""
            except CapabilityError as error:
                self._reason = str(error)
        OrtCpuRunner.open(self)
        self._names = [t.name for t in self.interface.inputs]
        if self.library is not None:
            self._begin, self._end = self.library.begin, self.library.end
            try:
                self._hold(self.library)
            except DataError:
                self.close()
                raise

    def configure(self, options: Any) -> None:
        """Stay with options where ONNX Runtime refuses the library."""
        try:
            super().configure(options)
        except CapabilityError as error:
            self.library, self._reason = None, str(error)

    def close(self) -> None:
        """Release the session, then its arenas."""
        super().close()
        if self.library is not None:
            for handle in self._handles.values():
                self.library.destroy(handle)
        self._handles, self._choice = {}, NONE

    def infer(self, feeds: Feeds) -> Outputs:
        """Run once, at planned offsets if there is a plan for these shapes."""
        choice = self._choice
        for name, shape in choice.shapes:  # most runs are of the shapes of the one before: no key is made, none hashed
            if feeds[name].shape != shape:
                choice = self._chosen(feeds)
                break
        if choice.handle is None or self._begin(choice.handle, choice.how) < 0:
            return OrtCpuRunner.infer(self, feeds)
        try:
            return OrtCpuRunner.infer(self, feeds)
        finally:
            self._end()

    @property
    def tier(self) -> Tier:
        """What is in force; that another allocator took the library's place shows after the first run."""
        counts, wanted = self.counts, any(a.offset is not None for p in self.plans for a in p.allocations)
        if counts.runs and wanted and not counts.served + counts.misses:
            return Tier("options", "another allocator of this process took the library's place")
        return Tier("options", self._reason) if self._reason else Tier("planned")

    @property
    def counts(self) -> Counts:
        """What became of the runs whose inputs have the shapes of a plan."""
        if self.library is None:
            return Counts()
        return sum(map(self.library.counts, self._handles.values()), Counts())

    def _hold(self, serving: Library) -> None:
        """Have all plans share the arenas of the largest."""
        held: dict[ShapeKey, Handle] = {}
        for plan in sorted(self.plans, key=lambda p: p.arena, reverse=True):
            if (key := self._key(plan)) in held:
                raise DataError(f"two plans are for inputs of shapes {list(map(list, key))}; keep one")
            held[key] = self._handles[key] = serving.create(plan, self.slabs, next(iter(held.values()), None))
        self._handles = dict(reversed(held.items()))  # the smallest that has room is the first
        if self._handles:
            self._choice = self._choose(next(iter(self._handles)))

    def _chosen(self, feeds: Feeds) -> _Choice:
        """Choose for a run, and for those after it: one attribute is set, so that threads may race for it."""
        self._choice = choice = self._choose(tuple(feeds[name].shape for name in self._names))
        return choice

    def _choose(self, key: ShapeKey) -> _Choice:
        shapes = tuple(zip(self._names, key, strict=True))
        if (handle := self._handles.get(key)) is not None:
            return _Choice(shapes, handle, 0)
        larger = (handle for planned, handle in self._handles.items() if _within(key, planned))
        return _Choice(shapes, next(larger, None), SMALLER)

    def _key(self, plan: Planned) -> ShapeKey:
        if missing := [name for name in self._names if name not in plan.shapes]:
            raise DataError(f"the plan states no shape of input {missing[0]!r}; it is for another model")
        return tuple(tuple(plan.shapes[name]) for name in self._names)


def _within(shapes: ShapeKey, planned: ShapeKey) -> bool:
    """Whether no dimension is larger than the planned one."""
    return all(
        len(a) == len(b) and all(x <= y for x, y in zip(a, b, strict=True))
        for a, b in zip(shapes, planned, strict=True)
    )  # fmt: skip


NONE = _Choice((), None, 0)


def trace(model: ir.Model | Path, feeds: Feeds, config: SessionConfig = FOLLOWED) -> tuple[Event, ...]:
    """Return the events of a run after one that warms up what kernels keep; CapabilityError without the library."""
    return first_runs(model, feeds, config)[1]


def first_runs(
    model: ir.Model | Path, feeds: Feeds, config: SessionConfig = FOLLOWED
) -> tuple[tuple[Event, ...], tuple[Event, ...]]:
    """Return the events of a session's first run and of its second, which is as any later one."""
    with AllocatingRunner(model, config) as runner:
        return runner.events(feeds), runner.events(feeds)
