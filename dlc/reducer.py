"""Reduces a model file to the smallest part that fails as the whole does, resumably."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from dlc import __version__
from dlc.errors import ModelError, UserError
from dlc.passes.base import weight_bytes
from dlc.passes.weighted import label
from dlc.predicates import Command, Predicate
from dlc.progress import Progress, Silent
from dlc.reduction import drop_unread_inputs, feed, freeze, least, part, without_constant_nodes
from dlc.runtimes.probe import Probe
from dlc.runtimes.session import INLINE_LIMIT
from dlc.sources import onnx_files
from dlc.trials import Trials, ranges
from dlc.types import Array, Feeds
from dlc.versions import TABLE

SILENT = Silent()


@dataclass(frozen=True, slots=True)
class Reduced:
    """What is left. ``tried``: parts that were run now; ``known``: answers that an earlier run had left.

    ``steady``: whether it still failed when it was written and run once more.
    """

    model: str
    inputs: str
    symptom: str
    of: int
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    tried: int
    known: int
    steady: bool


def reduce(
    path: Path, fails: Predicate, feeds: Feeds, output: Path, terms: str, progress: Progress = SILENT
) -> Reduced:  # fmt: skip
    """Write the smallest failing part to ``output``, its inputs beside it; UserError if the whole does not fail.

    ``terms``: whatever else than model and feeds the answers depend on. Until it is done, they are in
    ``output`` + ``.journal``.
    """
    model = without_constant_nodes(onnx_files.read(path, max(TABLE.values())[0]))
    journal = Trials(output.with_name(f"{output.name}.journal"), _key(path, model, feeds, terms))
    with Probe(model) as probe:
        bench = _Bench(probe, fails, feeds, journal, progress)
        reduced = bench.write(bench.least(), output)
    journal.file.unlink()
    return reduced


def _key(path: Path, model: ir.Model, feeds: Feeds, terms: str) -> str:
    seen = hashlib.sha256(f"{__version__}\n{terms}\n".encode())
    seen.update(onnx_files.digest([path, *onnx_files.data_files(path, model)]).encode())
    for name, array in feeds.items():
        seen.update(f"{name}:{array.dtype}{array.shape}".encode() + array.tobytes())
    return seen.hexdigest()


@dataclass(slots=True)
class _Bench:
    """Builds parts, feeds them what a real run has there, and asks the predicate."""

    probe: Probe
    fails: Predicate
    feeds: Feeds
    journal: Trials
    progress: Progress
    symptom: str | None = None
    tried: int = 0
    recorded: dict[str, Array] = field(default_factory=dict)

    @property
    def fed_as_the_whole(self) -> bool:
        """Whether whoever feeds a part knows the inputs of the whole only."""
        return isinstance(self.fails, Command) and "{inputs}" not in self.fails.text

    def least(self) -> list[int]:
        """Return the places of the nodes that are left."""
        count = len(self.probe.model().graph)
        self.progress.stage(f"leave out what does not matter of {count} nodes")
        self.symptom = self._ask(range(count))
        if self.symptom is None:
            raise UserError("the model does not fail: run on these inputs, it shows no such symptom")
        return least(count, lambda kept: self._ask(kept) == self.symptom)

    def write(self, kept: Sequence[int], output: Path) -> Reduced:
        """Write a part, its weights inside, and its inputs."""
        inputs, count = output.with_suffix(".npz"), len(self.probe.model().graph)
        model, feeds = self._built(kept)
        nodes = [(label(node), node.op_type) for node in model.graph]
        if inline := weight_bytes(model) <= INLINE_LIMIT:
            ir.external_data.load_to_model(model)
        ir.save(model, output, external_data=None if inline else f"{output.name}.data")
        np.savez(inputs, **feeds)  # type: ignore[arg-type]  # its second parameter is a bool
        return Reduced(
            str(output), str(inputs), str(self.symptom), count,
            tuple(n for n, _ in nodes), tuple(op for _, op in nodes), self.tried,
            len(self.journal.known) - self.tried, self.fails(output, feeds) == self.symptom,
        )  # fmt: skip

    def _ask(self, kept: Sequence[int]) -> str | None:
        if (key := ranges(kept)) in self.journal.known:
            return self.journal.known[key]
        self.tried += 1
        self.progress.advance()
        try:
            model, feeds = self._built(kept)
        except ModelError:  # what it would be fed cannot be computed
            symptom = None
        else:
            path = self.probe.path.with_name("candidate.onnx")
            ir.save(model, path)  # beside the weights, which it refers to
            symptom = self.fails(path, feeds)
        self.journal.add(kept, symptom)
        return symptom

    def _built(self, kept: Sequence[int]) -> tuple[ir.Model, Feeds]:
        model = part(self.probe.model(), set(kept))
        cut = [str(v.name) for v in model.graph.inputs if v.name not in self.feeds]
        values = self._values(cut)
        if self.fed_as_the_whole:
            freeze(model, values)
            return model, self.feeds
        drop_unread_inputs(model)
        feed(model, values)
        return model, {str(v.name): {**self.feeds, **values}[str(v.name)] for v in model.graph.inputs}

    def _values(self, names: Collection[str]) -> dict[str, Array]:
        """Return what the whole computes under some names, without ONNX Runtime's optimisations."""
        if missing := [n for n in names if n not in self.recorded]:
            [got] = self.probe.fetch(missing, [self.feeds])
            self.recorded.update((name, array.copy()) for name, array in got.items())
        return {name: self.recorded[name] for name in names}
