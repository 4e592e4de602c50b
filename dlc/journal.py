"""What a search has measured, one JSON line each, so that one that was interrupted goes on where it stopped.

The file's name is the hash of all that the numbers depend on. The objective is not part of it: the same mixes answer
every question.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from dlc import json_lines
from dlc.costs import canonical_text
from dlc.manifest import Record
from dlc.passes.base import all_nodes, graphs
from dlc.search import Measured, Mix


class Sensitivity(Record, frozen=True, kw_only=True, tag="sensitivity"):
    """What one unit loses on its own; None: its outputs are of no use."""

    unit: str
    loss: float | None


class Evaluation(Record, frozen=True, kw_only=True, tag="evaluation"):
    """A mix, by the units in 8 bits, and what it measured."""

    mix: tuple[str, ...]
    measured: Measured


@dataclass(slots=True)
class Journal:
    """Entries of one search; ``file`` None: they are gone with the process."""

    file: Path | None = None
    losses: dict[str, float | None] = field(default_factory=dict)
    measured: dict[Mix, Measured] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in () if self.file is None else json_lines.read(self.file, Sensitivity | Evaluation):
            self._remember(entry)

    def add(self, entry: Sensitivity | Evaluation) -> None:
        """Remember an entry, on disk at once."""
        self._remember(entry)
        if self.file is not None:
            json_lines.append(self.file, entry)

    def _remember(self, entry: Sensitivity | Evaluation) -> None:
        if isinstance(entry, Sensitivity):
            self.losses[entry.unit] = entry.loss
        else:
            self.measured[frozenset(entry.mix)] = entry.measured


def key(model: ir.Model, *parts: str) -> str:
    """Hash a model, its names and weights included, and whatever else the measurements depend on."""
    seen = hashlib.sha256()
    names = (str(node.name) for node in all_nodes(model.graph))
    for part in (*parts, *canonical_text(model), *names):
        seen.update(part.encode() + b"\n")
    for block in _weights(model):
        seen.update(block)
    return seen.hexdigest()


def _weights(model: ir.Model) -> Iterable[bytes]:
    for graph in graphs(model.graph):
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                yield name.encode()
                yield value.const_value.tobytes()
