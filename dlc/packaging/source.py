"""What is packaged: one variant of an artifact whose every byte is as it was sealed."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx_ir as ir

from dlc.artifact import CHECKSUMS, MEMORY, MODEL, Artifact, faults, read_golden
from dlc.errors import ArtifactError, UserError
from dlc.interface import Interface
from dlc.manifest import GoldenTolerance, Manifest, VariantRecord
from dlc.memory_plan import MemoryPlan
from dlc.memory_plan import read as read_plan
from dlc.runtimes.session import SessionConfig
from dlc.types import Array, Outputs

NOT_BUILT = "not built"


@dataclass(frozen=True)
class Source:
    """One variant, ready to be packaged; ``folder`` holds its files."""

    artifact: Artifact
    variant: VariantRecord

    @property
    def manifest(self) -> Manifest:
        """The record of the compile."""
        return self.artifact.manifest

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.manifest.name

    @property
    def precision(self) -> str:
        """Name of the variant."""
        return self.variant.precision

    @property
    def folder(self) -> Path:
        """Where the variant's files are."""
        return self.artifact.path / self.precision

    @property
    def model(self) -> Path:
        """The model file."""
        return self.folder / MODEL

    def copy_model(self, folder: Path) -> None:
        """Copy the model file, and its weights where they are in a file of their own."""
        for path in (self.model, self.model.with_name(f"{MODEL}.data")):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)

    @cached_property
    def graph(self) -> ir.Model:
        """The model; weights stay on disk."""
        return ir.load(self.model)

    @cached_property
    def interface(self) -> Interface:
        """Inputs and outputs."""
        return Interface.of(self.graph)

    @cached_property
    def golden(self) -> list[tuple[dict[str, Array], Outputs]]:
        """Inputs, and what ONNX Runtime's Python package answered when the variant was built."""
        return read_golden(self.folder)

    @property
    def tolerance(self) -> GoldenTolerance:
        """How far a replay may differ, and why."""
        assert self.variant.golden is not None
        return self.variant.golden

    @property
    def session(self) -> SessionConfig:
        """The options that it was measured with."""
        return self.artifact.session(self.precision)

    @property
    def plan(self) -> MemoryPlan | None:
        """The memory plan, if there is one."""
        path = self.folder / MEMORY
        return read_plan(path) if path.is_file() else None

    @property
    def seal(self) -> str:
        """SHA-256 of the artifact's list of checksums, which stands for every byte of it."""
        return hashlib.sha256((self.artifact.path / CHECKSUMS).read_bytes()).hexdigest()

    def sibling(self, precision: str) -> Source:
        """Return another variant of the same artifact; ArtifactError if there is none, or it was not built."""
        variant = self.artifact.variant(precision)
        if variant.verdict.status == NOT_BUILT:
            raise ArtifactError(f"{self.artifact.path}: variant {precision} was not built, so it cannot be packaged")
        return Source(self.artifact, variant)


def load_artifact(path: Path) -> Artifact:
    """Read an artifact to be packaged; ArtifactError if a byte of it is not as it was sealed."""
    artifact = Artifact.load(path)
    if damage := faults(path):
        raise ArtifactError(f"{path} is damaged and is not packaged: {damage[0]}; compile it anew")
    return artifact


def load_source(path: Path, *, allow_failing: bool = False) -> Source:
    """Read ``ARTIFACT/VARIANT``; UserError if its verdict is *fail*, unless that is allowed."""
    artifact = load_artifact(path.parent)
    variant = artifact.variant(path.name)
    if variant.verdict.status == NOT_BUILT:
        raise ArtifactError(f"{path} was not built: {'; '.join(variant.verdict.reasons) or 'no reason is recorded'}")
    source = Source(artifact, variant)
    check_verdict(source, allow_failing=allow_failing)
    return source


def check_verdict(source: Source, *, allow_failing: bool) -> None:
    """Refuse a variant that failed its gates: UserError, unless that is allowed."""
    if source.variant.verdict.status == "fail" and not allow_failing:
        reasons = [r for r in source.variant.verdict.reasons if r.startswith("fail")] or source.variant.verdict.reasons
        raise UserError(
            f"{source.folder} failed its gates and is not packaged: {'; '.join(reasons)}; "
            "package another variant, or this one, marked, with --allow-failing"
        )
