"""Whether an exported graph computes what its source computes, at several sizes of every dynamic dimension."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from dlc.errors import DlcError, ExportError, ModelError
from dlc.feeds import Declared, at_sizes, compared_sizes, seeded_feeds
from dlc.interface import Interface
from dlc.runtimes.base import Runner
from dlc.runtimes.eager import EagerRunner
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.reference import ReferenceRunner
from dlc.runtimes.session import SessionConfig
from dlc.tolerance import distance, reassociation
from dlc.types import Feeds, Outputs

if TYPE_CHECKING:
    import torch

Sizes = Mapping[str, int]

PLAIN = SessionConfig(graph_optimization="none")


def with_module(model: ir.Model, module: torch.nn.Module, declared: Declared, rng: np.random.Generator) -> str:
    """Compare with the module, or raise ExportError."""
    with OrtCpuRunner(model, PLAIN) as graph, EagerRunner(module, Interface.of(model)) as eager:
        return _Parity("eager PyTorch", Interface.of(model), declared, reassociation(model)).check(graph, eager, rng)


def run_file(model: ir.Model, path: Path, declared: Declared, rng: np.random.Generator) -> str:
    """Run the file that a model was read from, and not changed since, or raise ExportError."""
    with OrtCpuRunner(path, PLAIN) as file:
        return _Parity("the file", Interface.of(model), declared, 0.0).check(file, None, rng)


def with_file(model: ir.Model, path: Path, declared: Declared, rng: np.random.Generator) -> str:
    """Compare a converted model with the file that it was read from, or raise ExportError."""
    with ExitStack() as stack:
        graph = stack.enter_context(OrtCpuRunner(model, PLAIN))
        file: Runner
        try:
            file = stack.enter_context(OrtCpuRunner(path, PLAIN))
        except ModelError:  # newer than the runtime; that is why it was converted
            file = stack.enter_context(ReferenceRunner(ir.load(path)))
        return _Parity("the file", Interface.of(model), declared, reassociation(model)).check(graph, file, rng)


@dataclass(frozen=True, slots=True)
class _Parity:
    """A comparison with a source, called ``name`` in messages."""

    name: str
    interface: Interface
    declared: Declared
    bound: float

    def check(self, graph: Runner, source: Runner | None, rng: np.random.Generator) -> str:
        """Run both at every shape; say how far they lie apart."""
        shapes = compared_sizes(self.declared)
        worst = 0.0
        for sizes in shapes:
            feeds = seeded_feeds(self.interface, self.declared.inputs, sizes, rng)
            stated = self._state(source, feeds, sizes) if source else {}
            try:
                apart, where = distance(graph.run(feeds), stated)
            except DlcError as error:
                raise ExportError(f"{at_sizes(sizes)}: the graph fails: {error}{_way_out(sizes, shapes[0])}") from error
            if apart > self.bound:
                raise ExportError(
                    f"{at_sizes(sizes)}: output {where!r} differs from {self.name} by {apart:.2g} of its largest "
                    f"value, more than {self.bound:.2g}{_way_out(sizes, shapes[0])}"
                )
            worst = max(worst, apart)
        checked = f"at {len(shapes)} shape{'s' if len(shapes) > 1 else ''} ({'; '.join(map(at_sizes, shapes))})"
        if source is None:
            return f"{self.name} itself, run {checked}"
        return f"equal to {self.name} within {worst:.2g} of the largest output, bound {self.bound:.2g}, {checked}"

    def _state(self, source: Runner, feeds: Feeds, sizes: Sizes) -> Outputs:
        try:
            return source.run(feeds)
        except DlcError as error:
            smallest = [n for n, d in self.declared.dims.items() if sizes[n] == d.min != d.typical]
            hint = f"; raise the minimum of {', '.join(map(repr, smallest))}" if smallest else ""
            raise ExportError(f"{at_sizes(sizes)}: {self.name} fails: {error}{hint}") from error


def _way_out(sizes: Sizes, first: Sizes) -> str:
    """Blame the dims that changed since the representative shape, where the graph held."""
    if not (changed := [n for n in sizes if sizes[n] != first[n]]):
        return ""
    return (
        f". It holds at {at_sizes(first)}, so the export fixed {' or '.join(map(repr, changed))}: "
        "let the code take other sizes, or declare the size in the input's shape"
    )
