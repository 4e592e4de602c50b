"""What goes into a variant's folder: the model, how to open it, what it must answer, and where its tensors live."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import onnx_ir as ir

from dlc import memory_plan
from dlc.artifact import MEMORY, MODEL, SESSION, write_golden, write_model
from dlc.manifest import GoldenTolerance
from dlc.passes.plan_memory import plan
from dlc.recipe import Precision
from dlc.runtimes.session import SessionConfig
from dlc.stages.evidence import Subject
from dlc.tolerance import reassociation
from dlc.types import Feeds


def ship(parent: Path, name: str, model: ir.Model, config: SessionConfig) -> Subject:
    """Write a model and its session options into ``parent / name``."""
    folder = parent / name
    write_model(folder, model)
    (folder / SESSION).write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=1) + b"\n")
    return Subject(name, folder, config)


def add_golden(subject: Subject, vectors: Sequence[Feeds]) -> None:
    """Run the shipped file and save what it answers."""
    with subject.runner() as runner:
        write_golden(subject.folder, [(feeds, runner.run(feeds)) for feeds in vectors])


def add_plan(subject: Subject, model: ir.Model, feeds: Feeds) -> memory_plan.MemoryPlan:
    """Plan the activations of the shipped graph at the sizes of these feeds."""
    from dlc.interface import Interface, sizes_of

    planned = plan(model, sizes_of(Interface.of(model), feeds))
    digest = hashlib.sha256((subject.folder / MODEL).read_bytes()).hexdigest()
    encoded = memory_plan.encode(planned, digest)
    (subject.folder / MEMORY).write_bytes(encoded)
    return memory_plan.read(subject.folder / MEMORY)


def golden_tolerance(precision: Precision, model: ir.Model) -> GoldenTolerance:
    """How far a replay on another processor may differ: what its kernels may legitimately round otherwise."""
    bound = reassociation(model)
    if precision == "fp32":
        return GoldenTolerance(bound=bound, reason="FP32 sums in another order: 4·n·eps of the longest dot product")
    step, reason = ROUNDING[precision]
    return GoldenTolerance(bound=max(bound, step), reason=reason)


ROUNDING: dict[Precision, tuple[float, str]] = {
    "fp16": (4 * 2.0**-11, "four roundings to FP16's 11 bits"),
    "bf16": (4 * 2.0**-8, "four roundings to BF16's 8 bits"),
    "int8": (4 / 255, "four steps of an 8-bit output: a value on a rounding boundary may fall to either side"),
    "int4": (4 / 255, "four steps of an 8-bit output: some kernels round activations to 8 bits"),
}
