"""``memory.json``: a memory plan beside the model it is for. Schema ``dlc-memory/1``; sizes and offsets in bytes.

``docs/memory.schema.json`` is made from these classes: ``python -m dlc.memory_plan > docs/memory.schema.json``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from dlc.allocations import Allocation
from dlc.errors import ArtifactError
from dlc.manifest import Lifetime, Record
from dlc.passes.plan_memory import Buffer, Plan
from dlc.pretty import pretty_json
from dlc.types import Bytes

SCHEMA = "dlc-memory/1"


class SizesPlan(Record, frozen=True, kw_only=True):
    """What a plan says of other sizes: its fields mean what those of the same names do in ``MemoryPlan``."""

    dims: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    arena_bytes: Bytes
    lower_bound_bytes: Bytes
    every_order_bytes: Bytes | None
    given_order_bytes: Bytes | None
    outputs_bytes: Bytes | None
    options_arena_bytes: Bytes | None
    proved_optimal: bool
    solver: str
    buffers: tuple[Lifetime, ...]
    allocations: tuple[Allocation, ...]

    @classmethod
    def of(cls, plan: Plan) -> SizesPlan:
        """Record a plan that shares file and order with another."""
        whole = MemoryPlan.of(plan, "")
        return cls(**{name: getattr(whole, name) for name in cls.__struct_fields__})


class MemoryPlan(Record, frozen=True, kw_only=True):
    """A plan for the model file of this hash. Steps index ``order``; a buffer lives at first <= step < last.

    ``shapes``: of every input, which the plan is for. ``runtime``: the ONNX Runtime that it was compared with; where it
    is empty, nothing was. ``every_order_bytes``: no order of the nodes needs fewer; null where that is not known.
    ``allocations``: of one run, in order, each with its size and its offset, null for what outlives the run.
    ``options_arena_bytes``: the ``max_mem`` of ONNX Runtime's own arena that runs in this order need, outputs included,
    beside the weights; null where no run was traced. ``others``: plans of the same order for other sizes, all smaller.
    """

    schema: Literal["dlc-memory/1"] = "dlc-memory/1"
    model_sha256: str
    dims: Mapping[str, int]
    arena_bytes: Bytes
    lower_bound_bytes: Bytes
    alignment: Bytes
    solver: str
    note: str
    order: tuple[str, ...]
    buffers: tuple[Lifetime, ...]
    file: str = "model.onnx"
    shapes: Mapping[str, tuple[int, ...]] = {}
    runtime: str = ""
    every_order_bytes: Bytes | None = None
    given_order_bytes: Bytes | None = None
    outputs_bytes: Bytes | None = None
    proved_optimal: bool = False
    allocations: tuple[Allocation, ...] = ()
    options_arena_bytes: Bytes | None = None
    others: tuple[SizesPlan, ...] = ()

    @classmethod
    def of(cls, plan: Plan, model_sha256: str, file: str = "model.onnx", others: Sequence[Plan] = ()) -> MemoryPlan:
        """Record a plan for a file, and those for other sizes."""
        buffers = tuple(
            Lifetime(name=b.name, size=b.size, offset=plan.offsets[b.name], first=b.first, last=b.last)
            for b in plan.buffers
        )
        return cls(
            model_sha256=model_sha256,
            dims=dict(sorted(plan.dims.items())),
            arena_bytes=plan.arena,
            lower_bound_bytes=plan.lower_bound,
            alignment=plan.alignment,
            solver=plan.solver,
            note=plan.note,
            order=plan.order,
            buffers=buffers,
            file=file,
            shapes=dict(plan.shapes),
            runtime=plan.runtime,
            every_order_bytes=plan.every_order,
            given_order_bytes=plan.given_bytes,
            outputs_bytes=plan.outputs_bytes,
            proved_optimal=plan.proved,
            allocations=plan.allocations,
            options_arena_bytes=plan.options_arena,
            others=tuple(map(SizesPlan.of, others)),
        )

    def plans(self) -> tuple[Plan, ...]:
        """Return the plans that were recorded, that of the largest sizes first."""
        others = (msgspec.structs.replace(self, others=(), **msgspec.structs.asdict(each)) for each in self.others)
        return self.plan(), *(each.plan() for each in others)

    def plan(self) -> Plan:
        """Return the plan that was recorded for the largest sizes."""
        return Plan(
            arena=self.arena_bytes,
            lower_bound=self.lower_bound_bytes,
            buffers=tuple(Buffer(b.name, b.size, b.first, b.last) for b in self.buffers),
            offsets={b.name: b.offset for b in self.buffers},
            order=self.order,
            dims=self.dims,
            solver=self.solver,
            alignment=self.alignment,
            note=self.note,
            shapes=self.shapes,
            allocations=self.allocations,
            every_order=self.every_order_bytes,
            given_bytes=self.given_order_bytes,
            outputs_bytes=self.outputs_bytes,
            runtime=self.runtime,
            options_arena=self.options_arena_bytes,
        )

    def check(self, model_sha256: str, shapes: Mapping[str, tuple[int, ...]], runtime: str) -> None:
        """Raise ArtifactError with the reason if no plan is for this model, these input shapes, this runtime."""
        again = "make one with dlc plan"
        if model_sha256 != self.model_sha256:
            raise ArtifactError(f"the memory plan is of another model than {self.file}, or it changed since; {again}")
        known = [*(each.shapes for each in self.others), self.shapes]
        wrong = [_apart(planned, shapes) for planned in known]
        if None not in wrong and (name := wrong[-1]):
            planned = " or ".join(str(list(each[name])) for each in known)
            given = list(shapes.get(name, ()))
            raise ArtifactError(f"the memory plan is for input {name!r} of shape {planned}, not {given}; {again} of it")
        if self.runtime and self.runtime != runtime:
            raise ArtifactError(f"the memory plan is for ONNX Runtime {self.runtime}, this is {runtime}; {again}")


def _apart(planned: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> str | None:
    """Return the first input that has another shape than planned."""
    return next((name for name, shape in planned.items() if tuple(given.get(name, ())) != shape), None)


def encode(plan: Plan, model_sha256: str, file: str = "model.onnx", others: Sequence[Plan] = ()) -> bytes:
    """Return the text of ``memory.json``."""
    return pretty_json(MemoryPlan.of(plan, model_sha256, file, others))


def schema_text() -> str:
    """Return the JSON Schema (Draft 2020-12) of ``memory.json``, as it is published."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:dlc:{SCHEMA.replace('/', ':')}",
        "title": SCHEMA,
        **msgspec.json.schema(MemoryPlan),
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def read(path: Path) -> MemoryPlan:
    """Read a ``memory.json``; ArtifactError if it is missing, damaged or of another schema."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=MemoryPlan)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is damaged or not of schema {SCHEMA}: {error}") from error


if __name__ == "__main__":
    sys.stdout.write(schema_text())
