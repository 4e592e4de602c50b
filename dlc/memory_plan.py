"""``memory.json``: a memory plan beside the model it is for. Schema ``dlc-memory/1``; sizes and offsets in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from dlc.errors import ArtifactError
from dlc.manifest import Lifetime, Record
from dlc.passes.plan_memory import Buffer, Plan
from dlc.types import Bytes

SCHEMA = "dlc-memory/1"


class MemoryPlan(Record, frozen=True, kw_only=True):
    """A plan for the model file of this hash. Steps index ``order``; a buffer lives at first <= step < last."""

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

    @classmethod
    def of(cls, plan: Plan, model_sha256: str) -> MemoryPlan:
        """Record a plan."""
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
        )

    def plan(self) -> Plan:
        """Return the plan that was recorded."""
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
        )


def encode(plan: Plan, model_sha256: str) -> bytes:
    """Return the text of ``memory.json``."""
    return msgspec.json.format(msgspec.json.encode(MemoryPlan.of(plan, model_sha256)), indent=1) + b"\n"


def read(path: Path) -> MemoryPlan:
    """Read a ``memory.json``; ArtifactError if it is missing, damaged or of another schema."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=MemoryPlan)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is damaged or not of schema {SCHEMA}: {error}") from error
