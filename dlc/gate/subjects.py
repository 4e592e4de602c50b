"""The models that one run of the gate measures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from dlc.artifact import SESSION, Artifact, faults, read_golden
from dlc.errors import ArtifactError, UserError
from dlc.feeds import input_like, seeded_feeds
from dlc.gate.observation import PassSeen
from dlc.interface import Interface
from dlc.manifest import VariantRecord
from dlc.recipe import suggest
from dlc.runtimes.base import Runner
from dlc.runtimes.replay import error
from dlc.stages.evidence import Subject
from dlc.types import Feeds

REFERENCE = "fp32"


@dataclass(frozen=True, slots=True)
class Judged:
    """One variant of one artifact. ``name`` is unique in the run: ``0/int8`` is of the artifact that is judged."""

    name: str
    subject: Subject
    record: VariantRecord

    def files(self) -> dict[str, str]:
        """SHA-256 of the model, its external data and its session options."""
        hashed = [*self.subject.files, self.subject.folder / SESSION]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in hashed}

    def golden(self, runner: Runner) -> tuple[float, float] | None:
        """Largest relative error over the golden vectors, and the bound that it must keep."""
        if self.record.golden is None:
            return None
        worst = 0.0
        for feeds, stated in read_golden(self.subject.folder):
            got = runner.run(feeds)
            worst = max(worst, *(error(got[name], stated[name]) for name in stated))
        return min(worst, 1e300), self.record.golden.bound  # an infinity is no JSON

    def passes(self) -> tuple[PassSeen, ...]:
        """Every pass that ran, with its options and the places where it was applied."""
        return tuple(
            PassSeen(
                name=p.name, options={k: msgspec.json.encode(v).decode() for k, v in p.options.items()},
                applied=tuple(s.node for s in p.sites if s.reason is None),
            )
            for p in self.record.passes
        )  # fmt: skip


def judged(artifact: Artifact, wanted: Sequence[str] | None, index: int) -> list[Judged]:
    """List the reference, then the wanted variants; ArtifactError if a file is damaged or a variant is missing."""
    if damage := faults(artifact.path):
        raise ArtifactError(f"{artifact.path}: {damage[0]}; dlc verify {artifact.path} lists all: compile it again")
    built = {v.precision: v for v in artifact.built}
    if REFERENCE not in built:
        raise ArtifactError(
            f"{artifact.path} has no fp32 variant, which the others are timed and scored against: compile it with "
            f"--variants {','.join([REFERENCE, *built])}"
        )
    if unknown := [v for v in wanted or () if v not in built]:
        raise UserError(f"{artifact.path} has no variant {unknown[0]!r}{suggest(unknown[0], built)}")
    names = dict.fromkeys([REFERENCE, *(built if wanted is None else wanted)])
    return [
        Judged(f"{index}/{n}", Subject(n, artifact.path / n, artifact.session(n)), built[n]) for n in names
    ]  # fmt: skip


def one_interface(runners: Mapping[str, Runner]) -> Interface:
    """Return the interface that all share; UserError names the difference."""
    (first, interface), *others = [(name, runner.interface) for name, runner in runners.items()]
    for name, other in others:
        if difference := interface.diff(other):
            raise UserError(f"{first} and {name} differ in interface, so they cannot be compared: {difference}")
    return interface


def seeded(reference: Judged, interface: Interface, sizes: Mapping[str, int], seed: int) -> Feeds:
    """Draw inputs as the golden vectors are: at the recipe's typical sizes, or at those given."""
    example = read_golden(reference.subject.folder)[0][0]
    like = {name: input_like(array) for name, array in example.items()}
    return seeded_feeds(interface, like, sizes, np.random.default_rng(seed))
