"""Inner tensors of a graph, some at a time, at the memory of one run.

The weights are written once, to a file that sessions map instead of copying. For each set of names the graph is cut to
what computes them, so that nothing behind them runs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dlc.errors import ModelError
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.types import Feeds, Outputs

UNCHANGED = SessionConfig(graph_optimization="none", entries={"session.disable_prepacking": "1"})
"""The graph as it is written; weights stay where they are mapped, without a second copy in a kernel's own layout."""
WEIGHTS = "weights"


class _Unpooled(OrtCpuRunner):
    """Each tensor is freed when its last reader is done: no arena keeps it for the next."""

    def configure(self, options: Any) -> None:
        options.enable_cpu_mem_arena = False


class Probe:
    """Runs a model for some of its inner tensors; ONNX Runtime's own optimisations are off.

    The model is written down at once, to ``path``, and need not be kept.
    """

    def __init__(self, model: ir.Model) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="dlc-")
        self.path = Path(self._scratch.name) / "model.onnx"
        ir.save(model, self.path, external_data=WEIGHTS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scratch.cleanup()

    def model(self) -> ir.Model:
        """Return the model anew; its weights are mapped when they are read."""
        return ir.load(self.path)

    def fetch(self, names: Sequence[str], feeds: Iterable[Feeds]) -> Iterator[Outputs]:
        """Yield the named tensors of each run, inputs too; ModelError if the graph does not run, or one is no tensor.

        What was yielded before is free to go: only one run's tensors are alive here.
        """
        path, inputs = self._cut(names)
        if path is None:
            yield from ({name: each[name] for name in names} for each in feeds)
            return
        with _Unpooled(path, UNCHANGED) as runner:
            for each in feeds:
                got = runner.run(each)
                yield {name: each[name] if name in inputs else got[name] for name in names}

    def _cut(self, names: Sequence[str]) -> tuple[Path | None, set[str]]:
        """Write the part of the graph that computes the names; None if all are inputs."""
        model = self.model()
        inputs = {str(v.name) for v in model.graph.inputs} & set(names)
        wanted = set(names) - inputs
        found = [v for node in model.graph for v in node.outputs if v.name in wanted]
        if len(found) < len(wanted):
            missing = min(wanted - {str(v.name) for v in found})
            raise ModelError(f"graph {model.graph.name!r} computes no value named {missing!r}")
        if not found:
            return None, inputs
        model.graph.outputs[:] = found
        RemoveUnusedNodesPass()(model)
        path = self.path.with_name("part.onnx")
        ir.save(model, path)
        return path, inputs
