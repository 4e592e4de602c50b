"""Sessions on the CPU whose runs allocate as planned, and the allocations that a run makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import onnx_ir as ir

from dlc.allocations import Event
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.planned_library import Library, library
from dlc.runtimes.session import SessionConfig
from dlc.types import Feeds

FOLLOWED = SessionConfig(graph_optimization="none", execution_order="priority", mem_reuse=False, mem_pattern=False)
"""Nodes in file order, and each buffer freed after its last reader: what a plan is made for."""


class AllocatingRunner(OrtCpuRunner):
    """A session that takes its memory from the library; CapabilityError when it is opened where that is missing."""

    def __init__(self, model: ir.Model | Path, config: SessionConfig = FOLLOWED):
        entries = {**config.entries, "session.use_env_allocators": "1"}
        super().__init__(model, msgspec.structs.replace(config, entries=entries))

    def open(self) -> None:
        """Build and load the library, then create the session."""
        self.library: Library = library()
        super().open()

    def configure(self, options: Any) -> None:
        """Have ONNX Runtime register the allocator."""
        options.register_custom_ops_library(str(self.library.path))

    def events(self, feeds: Feeds) -> tuple[Event, ...]:
        """Return what a run allocates and frees, in order; outputs are not freed within it."""
        import onnxruntime

        values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        events: list[Event] = []
        with self.library.traced(events):
            outputs = self._session.run_with_ort_values(self._outputs, values)
        del outputs  # not before: what is freed within the run does not escape it
        return tuple(events)


def trace(model: ir.Model | Path, feeds: Feeds, config: SessionConfig = FOLLOWED) -> tuple[Event, ...]:
    """Return the events of a run after one that warms up what kernels keep; CapabilityError without a C compiler."""
    with AllocatingRunner(model, config) as runner:
        runner.run(feeds)
        return runner.events(feeds)
