"""What every form is: it writes a folder, and proves in the real runtime that the folder does what it should."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec

from dlc.packaging.record import Runtime
from dlc.packaging.source import Source
from dlc.target import runtime_distribution
from dlc.types import Bytes


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a package's own program prints after it replayed the golden vectors.

    ``errors``: for each output the largest ``max|got - stated| / max|stated|``. ``alone``: nothing of dlc or torch was
    loaded. ``peak_bytes``: largest memory of the process, or of the runtime's heap where that is all there is to see.
    """

    runtime: str
    variant: str
    bound: float
    vectors: int
    errors: Mapping[str, float | None]
    load_ms: float
    latency_ms: float
    peak_bytes: Bytes | None = None
    alone: bool = True
    notes: tuple[str, ...] = ()

    @property
    def worst(self) -> float:
        """The largest error of all."""
        return max((_number(e) for e in self.errors.values()), default=0.0)


@dataclass(frozen=True, slots=True)
class Proof:
    """One check of a package: what was checked, whether it holds, why not, and what the runtime answered."""

    subject: str
    ok: bool
    detail: str = ""
    answer: Answer | None = None


class Form(ABC):
    """One way to package a variant; made anew for each package."""

    name: ClassVar[str]
    takes_fallbacks: ClassVar[bool] = False
    """Whether the folder holds the models of the whole chain, and its program chooses among them."""
    providers: ClassVar[tuple[str, ...]] = ("cpu",)
    """Where its program can run a model."""
    any_processor: ClassVar[bool] = False
    """Whether its runtime computes the same on every processor, so that the chain asks for no instruction set."""
    includes_runtime: ClassVar[bool] = False
    """Whether files of the runtime are in the folder, so that it is all that the target needs."""

    def runtime(self) -> Runtime:
        """Say what runs the package, and in which version; by default what the golden vectors agree with.

        That is the installed onnxruntime. CapabilityError if the runtime is not to be had here.
        """
        name, version = runtime_distribution()
        return Runtime(name=name, version=version, registry="pypi")

    def require(self) -> None:
        """Raise CapabilityError, which says what to install, if the check needs a tool that is missing here.

        By default it needs nothing but Python.
        """

    @abstractmethod
    def write(self, sources: Sequence[Source], folder: Path) -> tuple[str, ...]:
        """Write everything but the texts that all forms share; return notes for the record.

        ``sources`` are the variants of the chain, the chosen one first.
        """

    @abstractmethod
    def check(self, folder: Path) -> list[Proof]:
        """Run the package where it belongs, without writing into it."""


def judge(subject: str, variant: str, answer: Answer) -> Proof:
    """Hold an answer about a variant against its bound."""
    if answer.variant != variant:
        return Proof(subject, ok=False, detail=f"{answer.variant!r} was replayed, not {variant!r}", answer=answer)
    if not answer.alone:
        return Proof(
            subject, ok=False, detail="dlc or torch was loaded: the package does not stand alone", answer=answer
        )
    if not answer.vectors:
        return Proof(subject, ok=False, detail="there is no golden vector to replay", answer=answer)
    if not answer.errors:
        return Proof(subject, ok=False, detail="no output was compared", answer=answer)
    if answer.worst > answer.bound:
        worst = max(answer.errors, key=lambda name: _number(answer.errors[name]))
        detail = f"output {worst!r} differs by {answer.worst:.3g}, more than {answer.bound:.3g}"
        return Proof(subject, ok=False, detail=detail, answer=answer)
    return Proof(subject, ok=True, answer=answer)


def _number(error: float | None) -> float:
    """JSON has no infinity: programs write null for it."""
    return float("inf") if error is None else error
