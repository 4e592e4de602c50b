"""Which variant fits a device: the best of those within its budgets, and for each of the others why it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlc.artifact import Artifact
from dlc.manifest import VariantRecord
from dlc.types import Bytes

ORDER = ("pass", "inconclusive", "fail")


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits, None where there is none.

    ``size``: of the model on disk. ``memory``: what a process that runs it takes beyond the bare runtime.
    ``latency_ms``: its median at the typical sizes.
    """

    size: Bytes | None = None
    memory: Bytes | None = None
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant as it was measured, and the budgets that it breaks; none if it fits."""

    precision: str
    verdict: str
    size: Bytes | None
    memory: Bytes | None
    latency_ms: float | None
    problems: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether it is within every budget."""
        return not self.problems


def candidates(artifact: Artifact, budget: Budget, *, allow_failing: bool, only: str | None = None) -> list[Candidate]:
    """Hold every variant against the budgets, or ``only`` one; those that fit first, the best of them first.

    Better is the better verdict, then the lower latency, then the smaller size: a verdict of *pass* says that the
    accuracy is that of FP32, so it does not count again.
    """
    variants = [v for v in artifact.manifest.variants if only in (None, v.precision)]
    found = [_candidate(v, budget, allow_failing=allow_failing) for v in variants]
    return sorted(found, key=_rank)


def best(found: Sequence[Candidate]) -> Candidate | None:
    """Return the first of the candidates, which are in order, if it fits."""
    return found[0] if found and found[0].fits else None


def _candidate(variant: VariantRecord, budget: Budget, *, allow_failing: bool) -> Candidate:
    size = variant.size.bytes if variant.size else None
    memory = variant.memory.peak_rss_bytes - variant.memory.runtime_rss_bytes if variant.memory else None
    latency = variant.latency.median_ms if variant.latency else None
    status = variant.verdict.status
    if status == "not built":
        return Candidate(variant.precision, status, None, None, None, ("was not built",))
    problems = [
        *(["failed its gates"] if status == "fail" and not allow_failing else []),
        *_over("size", size, budget.size, "bytes"),
        *_over("memory", memory, budget.memory, "bytes"),
        *_over("latency", latency, budget.latency_ms, "ms"),
    ]
    return Candidate(variant.precision, status, size, memory, latency, tuple(problems))


def _over(what: str, found: float | None, limit: float | None, unit: str) -> list[str]:
    if limit is None:
        return []
    if found is None:
        return [f"{what} was not measured"]
    return [f"{what} {found:,.6g} {unit}, at most {limit:,.6g}"] if found > limit else []


def _rank(candidate: Candidate) -> tuple[bool, int, float, float]:
    verdict = ORDER.index(candidate.verdict) if candidate.verdict in ORDER else len(ORDER)
    unknown = float("inf")
    return not candidate.fits, verdict, candidate.latency_ms or unknown, candidate.size or unknown
