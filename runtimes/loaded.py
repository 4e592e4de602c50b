"""A graph as ONNX Runtime's CPU provider runs it: after its load-time optimisation, with the time of each node."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from dlc.passes.concrete_shapes import Shape
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.types import Feeds

RUNS = 5
SUFFIX = "_kernel_time"


@dataclass(frozen=True, slots=True)
class Kernel:
    """A node of the optimised graph, the provider it ran on, and its share of the time of all nodes.

    ``microseconds``: of its fastest run. ``outputs``: type and shape of each tensor it wrote, by ONNX Runtime's names.
    """

    node: str
    op: str
    provider: str
    share: float
    microseconds: float = 0.0
    outputs: tuple[tuple[str, Shape], ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """The optimised graph; ``kernels`` is empty if it was not run."""

    graph: ir.Model
    kernels: tuple[Kernel, ...] = ()


class _Recorder(OrtCpuRunner):
    """Writes the optimised graph down, and what each node took."""

    def configure(self, options: Any) -> None:
        assert self._scratch is not None
        options.optimized_model_filepath = str(self._optimized)

    @property
    def _optimized(self) -> Path:
        assert self._scratch is not None
        return Path(self._scratch.name) / "optimized.onnx"

    def loaded(self, feeds: Feeds | None) -> Loaded:
        """Return the graph, and its kernels if there are feeds."""
        for _ in range(RUNS if feeds is not None else 0):
            self.run(feeds or {})
        events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        return Loaded(ir.load(self._optimized), tuple(_kernels(events)))


def load_as_run(model: ir.Model | Path, feeds: Feeds | None = None, config: SessionConfig | None = None) -> Loaded:
    """Load a model as a session does, by default with its options, and run it a few times if there are feeds.

    ModelError if it cannot.
    """
    with _Recorder(model, config, profile=True) as runner:
        return runner.loaded(feeds)


def _kernels(events: list[dict[str, Any]]) -> list[Kernel]:
    """Take the fastest run of each node: what is above that is the machine."""
    took, what = defaultdict[str, list[int]](list), dict[str, tuple[str, str]]()
    wrote: dict[str, tuple[tuple[str, Shape], ...]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(SUFFIX):
            name = event["name"].removesuffix(SUFFIX)
            took[name].append(event["dur"])
            what[name] = (event["args"]["op_name"], event["args"]["provider"])
            written = event["args"].get("output_type_shape", ())
            wrote[name] = tuple((kind, tuple(shape)) for each in written for kind, shape in each.items())
    total = sum(min(each) for each in took.values()) or 1
    return [
        Kernel(name, *what[name], min(each) / total, float(min(each)), wrote[name]) for name, each in took.items()
    ]  # fmt: skip
