"""What goes into a variant's folder: the model, how to open it, what it must answer, and where its tensors live."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from dlc import memory_plan
from dlc.artifact import MEMORY, MODEL, SESSION, write_golden, write_model
from dlc.budget import Candidate
from dlc.manifest import GoldenTolerance
from dlc.planning import prepare
from dlc.pretty import pretty_json
from dlc.recipe import Precision
from dlc.runtimes.session import SessionConfig
from dlc.stages.evidence import Subject
from dlc.stages.variants import Build
from dlc.tolerance import reassociation
from dlc.types import Feeds


def ship(parent: Path, name: str, model: ir.Model, config: SessionConfig) -> Subject:
    """Write a model and its session options into ``parent / name``."""
    folder = parent / name
    write_model(folder, model)
    (folder / SESSION).write_bytes(pretty_json(config))
    return Subject(name, folder, config)


def add_golden(subject: Subject, vectors: Sequence[Feeds]) -> None:
    """Run the shipped file and save what it answers."""
    with subject.runner() as runner:
        write_golden(subject.folder, [(feeds, runner.run(feeds)) for feeds in vectors])


def add_plan(subject: Subject, feeds: Feeds) -> memory_plan.MemoryPlan:
    """Plan the activations of a shipped model at the sizes of these feeds, as it is loaded, and compare with a run.

    Unsupported if a size is unknown; PassError if the plan and the run are apart.
    """
    planned = prepare(subject.folder / MODEL, feeds, subject.config).plan
    with (subject.folder / MODEL).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    (subject.folder / MEMORY).write_bytes(memory_plan.encode(planned, digest))
    return memory_plan.read(subject.folder / MEMORY)


def candidates(subjects: Sequence[Subject], builds: Sequence[Build]) -> list[Candidate]:
    """Return the variants that may meet a memory budget, in the order in which they were asked for."""
    of = {s.name: s for s in subjects}
    return [
        Candidate(b.precision, of[b.precision].folder, of[b.precision].config) for b in builds if b.model is not None
    ]


def golden_tolerance(precision: Precision, model: ir.Model) -> GoldenTolerance:
    """How far a replay on another processor may differ: what its kernels may legitimately round otherwise."""
    if precision == "fp32":
        reason = "FP32 sums in another order: 4·eps·(terms of the longest sum + nodes)"
        return GoldenTolerance(bound=reassociation(model), reason=reason)
    bound, reason = ROUNDING[precision]
    return GoldenTolerance(bound=bound, reason=reason)


ROUNDING: dict[Precision, tuple[float, str]] = {
    "fp16": (4 * 2.0**-11, "four roundings to FP16's 11 bits"),
    "bf16": (4 * 2.0**-8, "four roundings to BF16's 8 bits"),
    "int8": (4 / 255, "four steps of an 8-bit output: a value on a rounding boundary may fall to either side"),
    "mixed": (4 / 255, "four steps of an 8-bit output: as int8"),
    "int4": (4 / 255, "four steps of an 8-bit output: some kernels round activations to 8 bits"),
}
