"""Where the memory of a process that runs a planned model goes, line by line, against what was measured."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from dlc.artifact import GOLDEN, MODEL, SESSION, read_golden, read_session
from dlc.bench import parse_dims
from dlc.errors import ArtifactError, Unsupported, UserError
from dlc.feeds import input_like, seeded_feeds
from dlc.harness.memory import peak_rss
from dlc.interface import Interface, sizes_of
from dlc.kv_cache import KvCache, kv_cache
from dlc.memory_plan import MemoryPlan
from dlc.passes.base import weight_bytes
from dlc.passes.liveness import SCRATCH
from dlc.passes.offsets import Buffer
from dlc.passes.plan_memory import Plan, live_bytes
from dlc.planned_files import FILE
from dlc.planning import Prepared, prepare_sizes
from dlc.recipe import Recipe, suggest
from dlc.runtimes.session import SessionConfig
from dlc.sources import onnx_files
from dlc.types import Bytes, Feeds
from dlc.versions import TABLE


@dataclass(frozen=True, slots=True)
class Account:
    """Bytes of each part of a process at its peak. ``measured`` None: it was not run."""

    runtime: Bytes
    private: Bytes
    mapped: Bytes
    activations: Bytes
    outputs: Bytes
    measured: Bytes | None

    @property
    def needed(self) -> Bytes:
        """Bytes that the model adds to a process that has the runtime loaded: measured, or the sum of its lines."""
        if self.measured is not None:
            return self.measured - self.runtime
        return self.private + self.mapped + self.activations + self.outputs

    @property
    def unaccounted(self) -> Bytes | None:
        """What was measured beyond the sum of the lines: code, prepacked weights, the loader's own copies."""
        known = self.runtime + self.private + self.mapped + self.activations + self.outputs
        return None if self.measured is None else self.measured - known


@dataclass(frozen=True, slots=True)
class Bucket:
    """The plan for one choice of sizes. ``reserved``: how many times its arena the plan of the largest sizes takes.

    ``options``: bytes that ONNX Runtime's own arena needs in the options tier, outputs included; None: not traced.
    """

    sizes: Mapping[str, int]
    planned: Bytes
    bound: Bytes
    every_order: Bytes | None
    given: Bytes | None
    proved: bool
    scratch: Bytes
    solver: str
    reserved: float
    options: Bytes | None


@dataclass(frozen=True, slots=True)
class Planned:
    """All that ``dlc plan`` says; ``account`` and ``peak`` are of the last bucket, whose sizes are the largest."""

    buckets: tuple[Bucket, ...]
    account: Account
    peak_step: int
    peak_node: str
    peak: tuple[Buffer, ...]
    cache: KvCache | None
    prepared: Prepared

    def summary(self) -> dict[str, Any]:
        """Return what ``--format json`` prints."""
        lines = {**asdict(self.account), "unaccounted": self.account.unaccounted, "needed": self.account.needed}
        cache = self.cache and {
            **asdict(self.cache), "one_buffer": self.cache.one_buffer, "two_buffers": self.cache.two_buffers,
        }  # fmt: skip
        plan = MemoryPlan.of(self.prepared.plan, "", FILE, self.prepared.others)
        return {
            "buckets": self.buckets, "account": lines, "peak_step": self.peak_step, "peak_node": self.peak_node,
            "peak": self.peak, "cache": cache, "plan": plan,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Subject:
    """A model file, its session options, and an example of its inputs if there is one."""

    path: Path
    config: SessionConfig
    example: Feeds

    @classmethod
    def of(cls, path: Path) -> Subject:
        """Take a model file, or the folder of a variant; ArtifactError if it is neither."""
        if path.is_file():
            return cls(path, SessionConfig(), {})
        if not (path / MODEL).is_file():
            raise ArtifactError(f"{path} is neither a model file nor the folder of a variant with a {MODEL}")
        config = read_session(path) if (path / SESSION).is_file() else SessionConfig()
        return cls(path / MODEL, config, read_golden(path)[0][0] if (path / GOLDEN).is_file() else {})


def parse_choices(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Read ``name=size`` and ``name=size,size`` options."""
    return {
        name: tuple(parse_dims([f"{name}={size}"])[name] for size in sizes.split(","))
        for name, _, sizes in (text.partition("=") for text in texts)
    }


def choices(
    interface: Interface, dims: Mapping[str, Sequence[int]], recipe: Recipe | None, example: Feeds
) -> list[dict[str, int]]:
    """Return every choice of sizes that is asked for, smallest first; Unsupported names a dimension without a size.

    A dimension takes the sizes that are given for it, else typical and largest of the recipe, else the example's.
    """
    named = [d for t in interface.inputs for d in t.shape or () if isinstance(d, str)]
    if unknown := [d for d in dims if d not in named]:
        raise UserError(f"no dynamic dimension is named {unknown[0]!r}{suggest(unknown[0], sorted(set(named)))}")
    known = sizes_of(interface, example) if set(example) == {t.name for t in interface.inputs} else {}
    of: dict[str, Sequence[int]] = {}
    for tensor in interface.inputs:
        if tensor.shape is None or None in tensor.shape:
            raise Unsupported(f"input {tensor.name!r} has a dimension without a name or size: export it with one")
        for dim in (d for d in tensor.shape if isinstance(d, str)):
            if dim in dims:
                of[dim] = dims[dim]
            elif recipe is not None and dim in recipe.dims:
                of[dim] = sorted({recipe.dims[dim].typical, recipe.dims[dim].max})
            elif dim in known:
                of[dim] = [known[dim]]
            else:
                raise Unsupported(
                    f"dimension {dim!r} of input {tensor.name!r} has neither a size nor bounds: give --dim {dim}=SIZE, "
                    "or a recipe that declares it"
                )
    found = [dict(zip(of, sizes, strict=True)) for sizes in product(*of.values())]
    return sorted(found, key=lambda sizes: (np.prod(list(sizes.values())), sorted(sizes.items())))


def account(
    subject: Subject, dims: Mapping[str, Sequence[int]], *, recipe: Recipe | None = None, budget: Bytes | None = None,
    context: int | None = None, batch: int = 1, measure: bool = True,
) -> Planned:  # fmt: skip
    """Plan a model at every choice of sizes, and measure it at the largest; UserError if a budget cannot be met."""
    model = onnx_files.read(subject.path, max(TABLE.values())[0])
    weights = weight_bytes(model)
    if budget is not None and budget < weights:
        raise UserError(
            f"a budget of {budget:,} bytes is below the weights, {weights:,} bytes: no plan can meet it; quantize the "
            "model (dlc compile --variants int8), or raise the budget"
        )
    interface, rng = Interface.of(model), np.random.default_rng(0)
    bounds = dict(recipe.inputs) if recipe else {name: input_like(array) for name, array in subject.example.items()}
    points = choices(interface, dims, recipe, subject.example)
    feeds = [seeded_feeds(interface, bounds, sizes, rng) for sizes in points]
    last = prepare_sizes(subject.path, feeds, subject.config)
    lines = _account(last, feeds[-1], measure=measure)
    step = _peak_step(last.plan)
    alive = sorted((b for b in last.plan.buffers if b.first <= step < b.last), key=lambda b: (-b.size, b.name))
    return Planned(
        tuple(_bucket(sizes, p, last.plan) for sizes, p in zip(points, (*last.others, last.plan), strict=True)), lines,
        step, last.plan.order[step] if last.plan.order else "", tuple(alive),
        kv_cache(model, context or 1, batch), last,
    )  # fmt: skip


def _bucket(sizes: Mapping[str, int], plan: Plan, largest: Plan) -> Bucket:
    scratch = max((b.size for b in plan.buffers if b.name.endswith(SCRATCH)), default=0)
    return Bucket(
        sizes, plan.arena, plan.lower_bound, plan.every_order, plan.given_bytes, plan.proved, scratch, plan.solver,
        largest.arena / plan.arena if plan.arena else 1.0, plan.options_arena,
    )  # fmt: skip


def _peak_step(plan: Plan) -> int:
    live = live_bytes(plan.buffers, len(plan.order))
    return live.index(max(live)) if live else 0


def _account(prepared: Prepared, feeds: Feeds, *, measure: bool) -> Account:
    private, mapped = _weights(prepared.model)
    runtime, measured = 0, None
    if measure:
        with tempfile.TemporaryDirectory(prefix="dlc-") as scratch:
            path = Path(scratch) / FILE
            ir.save(prepared.model, path)
            rss = peak_rss(path, prepared.config, feeds)
        runtime, measured = rss.runtime, rss.peak
    plan = prepared.plan
    return Account(runtime, private, mapped, plan.arena, plan.outputs_bytes or 0, measured)


def _weights(model: ir.Model) -> tuple[Bytes, Bytes]:
    """Return bytes of weights in the file itself, which each process copies, and of those it maps."""
    tensors = [v.const_value for v in model.graph.initializers.values() if v.const_value is not None]
    mapped = sum(t.nbytes for t in tensors if isinstance(t, ir.ExternalTensor))
    return sum(t.nbytes for t in tensors) - mapped, mapped
