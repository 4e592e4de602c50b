"""Measured costs: how long two forms of one computation take on the target, remembered.

Both run interleaved with the session's threads, as a default session loads them, but that several threads rest between
calls. An answer is kept under a key of target, runtime version, both graphs' text (weights enter by shape, not by
value) and the sizes of their inputs, so a second compile measures nothing and decides the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from typing import Self

import msgspec
import numpy as np
import onnx_ir as ir

from dlc.cost_table import Cost, CostTable
from dlc.errors import NotHere
from dlc.feeds import seeded_feeds
from dlc.harness.measure import interleaved
from dlc.harness.ratios import fastest
from dlc.interface import Interface, sizes_of
from dlc.lookup import load
from dlc.manifest import Estimate
from dlc.passes.base import all_nodes
from dlc.recipe import Input
from dlc.region import idle, typed
from dlc.runtimes import RUNTIMES
from dlc.runtimes.base import Runner
from dlc.runtimes.session import SessionConfig, resting
from dlc.target import Target, detect
from dlc.types import Feeds

FEW, ROUNDS = 24, 120
"""Rounds that show a clear difference, and that try to show a small one."""
MAX_SECONDS = 20.0
"""Of one race, unless the few rounds take longer."""
LONGEST_LOOK = 3e8
"""Nanoseconds of one form that are spent on a small difference; a place that takes long gets fewer rounds."""
WAY = "fastest in turns"
"""How costs are measured: one measured in another way is not remembered as if it were the same."""
NOISE = 0.02
"""A form with fewer nodes stays unless it is slower than this, beyond its interval."""


Calls = Mapping[str, Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Costs:
    """Measures on one target. ``feeds``: at typical sizes. ``bounds``: at the least sizes, and at large ones.

    Where the table carries costs that a target file brought along, they alone decide: another machine's are no
    substitute.
    """

    target: Target
    config: SessionConfig
    feeds: Feeds
    bounds: tuple[Feeds, ...] = ()
    seed: int = 0
    table: CostTable = field(default_factory=CostTable)

    @classmethod
    def at(
        cls, target: Target, interface: Interface, inputs: Mapping[str, Input], sizes: Sequence[Mapping[str, int]],
        *, seed: int = 0, table: CostTable,
    ) -> Self:  # fmt: skip
        """Costs at some sizes of the dynamic dimensions, the typical first, on seeded inputs."""
        rng = np.random.default_rng(seed)
        feeds, *bounds = (seeded_feeds(interface, inputs, at, rng) for at in sizes)
        config = SessionConfig(provider=target.provider, intra_op_threads=target.threads)
        return cls(target, config, feeds, tuple(bounds), seed, table)

    @property
    def points(self) -> tuple[Feeds, ...]:
        """Feeds at all sizes that are measured, the typical first."""
        return (self.feeds, *self.bounds)

    def whole(self, before: ir.Model, after: ir.Model, *, rounds: int = ROUNDS) -> Cost:
        """Cost of two whole models, a call included, at the typical sizes; ``rounds``: fewer for a large difference."""
        sizes = str(sorted(sizes_of(Interface.of(before), self.feeds).items()))
        few = () if rounds == ROUNDS else (str(rounds),)
        key = self.key(*canonical_text(before), *canonical_text(after), sizes, *few)
        if (known := self.table.read(key)) is not None:
            return known
        self.must_be_here()
        with self._open(before) as old, self._open(after) as new:
            calls = {"before": lambda: old.infer(self.feeds), "after": lambda: new.infer(self.feeds)}
            return self._remember(key, self._race(calls, rounds))

    def loaded(self, model: ir.Model, config: SessionConfig) -> Cost:
        """Cost of one model under other session options, against these, at the typical sizes."""
        sizes = str(sorted(sizes_of(Interface.of(model), self.feeds).items()))
        key = self.key(*canonical_text(model), sizes, repr(config))
        if (known := self.table.read(key)) is not None:
            return known
        self.must_be_here()
        with self._open(model) as these, self._open(model, config) as those:
            calls = {"before": lambda: these.infer(self.feeds), "after": lambda: those.infer(self.feeds)}
            return self._remember(key, self._race(calls, FEW * 2))

    def place(self, key: str, before: ir.Model, after: ir.Model | None, values: Feeds) -> Cost:
        """Cost of one place, without that of a call; more rounds where few do not tell.

        ``after`` None: nothing takes its place. ``values``: all that flows into either, by name, and maybe more.
        """
        if (known := self.table.read(key)) is not None:
            return known
        self.must_be_here()
        reading = {"before": before, "after": after, "idle": before}
        feeds = {n: {str(v.name): values[str(v.name)] for v in (m or before).graph.inputs} for n, m in reading.items()}
        nothing = idle(before, feeds["idle"])
        models = {"before": typed(before, feeds["before"]), "after": nothing, "idle": nothing}
        if after is not None:
            models["after"] = typed(after, feeds["after"])
        with ExitStack() as stack:
            runners = {name: stack.enter_context(self._open(model)) for name, model in models.items()}
            calls = {n: (lambda n=n: runners[n].infer(feeds[n])) for n in models}
            cost = self._race(calls, FEW)
            if cost.ratio.low < 1 + NOISE and cost.ratio.high > 1 - NOISE:
                affordable = int(LONGEST_LOOK / (cost.before_ns + cost.after_ns))
                cost = self._race(calls, max(FEW, min(affordable, ROUNDS)))
        return self._remember(key, cost)

    def key(self, *parts: str) -> str:
        """Key of a cost: what is measured, where, and with which options."""
        seen = hashlib.sha256(f"{WAY} {self.fingerprint}".encode() + msgspec.json.encode(resting(self.config)))
        for part in parts:
            seen.update(part.encode() + b"\n")
        return seen.hexdigest()

    @property
    def fingerprint(self) -> str:
        """The target whose costs these are: the one that brought them along, else this machine."""
        return self.target.fingerprint if self.table.carried is not None else here(self.target).fingerprint

    def run(self, model: ir.Model) -> None:
        """Run a model once; ModelError if it cannot be loaded or run."""
        with self._open(model) as runner:
            runner.run(self.feeds)

    def must_be_here(self) -> None:
        """Raise Unmeasured if this machine is not the one whose costs count."""
        if self.table.carried is not None and self.target.fingerprint != here(self.target).fingerprint:
            raise NotHere("not measured on the target: dlc target profile measures it there")

    def _open(self, model: ir.Model, config: SessionConfig | None = None) -> Runner:
        runner: Runner = load(RUNTIMES[self.target.provider])(model, resting(config or self.config))
        return runner

    def _race(self, calls: Calls, rounds: int) -> Cost:
        rng = np.random.default_rng(self.seed)
        pin = self.config.intra_op_threads == 1
        samples = interleaved(calls, rounds=rounds, max_seconds=MAX_SECONDS, rng=rng, pin=pin)
        overhead = samples["idle"].min() if "idle" in samples else 0
        before, after = (np.maximum(samples[n] - overhead, 1.0) for n in ("before", "after"))
        return Cost(before_ns=float(before.min()), after_ns=float(after.min()), ratio=fastest(after, before))

    def _remember(self, key: str, cost: Cost) -> Cost:
        self.table.write(key, self.fingerprint, cost)
        return cost


@cache
def here(target: Target) -> Target:
    """Describe this machine, with the provider and threads of a target."""
    return detect(target.provider, target.threads)


def decide(ratio: Estimate, *, fewer_nodes: bool) -> tuple[bool, str]:
    """Keep a form that is faster, or that is simpler and not slower; say which."""
    if ratio.high < 1:
        return True, "faster"
    if ratio.low > (1 + NOISE if fewer_nodes else 1):
        return False, "slower on this target"
    return (True, "no slower, and fewer nodes") if fewer_nodes else (False, "no faster: the simpler graph stays")


def canonical_text(model: ir.Model, shapes: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yield a graph's lines with values numbered in order, so that names do not matter; weights by dtype and shape.

    ``shapes``: texts that stand for the shapes of inputs, by name, where the graph's own do not tell.
    """
    number = _Numbers()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        shape = (shapes or {}).get(str(value.name)) or value.shape
        yield f"{number(value)} {value.dtype} {shape} {_shape_like(value.const_value)}"
    yield from _node_lines(all_nodes(model.graph), number)
    yield f"return {','.join(map(number, model.graph.outputs))} {sorted(model.opset_imports.items())}"


def nodes_text(nodes: Sequence[ir.Node], shape: Callable[[ir.Value], str]) -> Iterator[str]:
    """Yield the same for some nodes of a graph, without cutting them out; ``shape``: of what flows in, as text."""
    number, inside = _Numbers(), set(nodes)
    for node in nodes:
        for value in (v for v in node.inputs if v is not None and v not in number):
            constant = None if value.is_graph_input() else value.const_value
            yield f"{number(value)} {value.dtype} {value.shape if constant else shape(value)} {_shape_like(constant)}"
        yield from _node_lines([node], number)
    escaping = (
        v for n in nodes for v in n.outputs if v.is_graph_output() or any(u.node not in inside for u in v.uses())
    )
    yield f"return {','.join(map(number, escaping))}"


class _Numbers(dict[ir.Value, str]):
    """Values to their numbers, in the order they are asked for."""

    def __call__(self, value: ir.Value | None) -> str:
        return "" if value is None else self.setdefault(value, f"%{len(self)}")


def _node_lines(nodes: Iterable[ir.Node], number: _Numbers) -> Iterator[str]:
    for node in nodes:
        attributes = sorted(map(_attribute, node.attributes.values())) if node.attributes else ""
        inputs, outputs = ",".join(map(number, node.inputs)), ",".join(map(number, node.outputs))
        yield f"{outputs} = {node.domain}.{node.op_type}({inputs}) {attributes}"


def _shape_like(tensor: ir.TensorProtocol | None) -> str:
    """Return the elements of a small integer tensor: it is an operand of shape arithmetic, not a weight."""
    if tensor is None or tensor.dtype is not ir.DataType.INT64 or tensor.size > 64:
        return ""
    return str(tensor.numpy().tolist())


def _attribute(attribute: ir.Attr) -> str:
    if attribute.type is ir.AttributeType.TENSOR:
        return f"{attribute.name}={attribute.value.dtype}{attribute.value.shape}"
    return f"{attribute.name}=" if attribute.type is ir.AttributeType.GRAPH else f"{attribute.name}={attribute.value}"
