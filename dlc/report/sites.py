"""Sites, grouped for a reader: by rewrite, operator and reason, counted, with the first few names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dlc.manifest import Quantized, SiteRecord
from dlc.report.numbers import shorten

T = TypeVar("T")
GROUPS = 40
"""Groups shown under one pass; what is over is summed up in one more."""


@dataclass(frozen=True, slots=True)
class Group:
    """Sites that ended alike. ``reason`` is None where the rewrite was applied."""

    rewrite: str
    op: str
    reason: str | None
    count: int
    nodes: tuple[str, ...]

    @property
    def unnamed(self) -> int:
        """How many sites ``nodes`` does not name."""
        return self.count - len(self.nodes)


def gather(sites: Iterable[SiteRecord], names: int) -> list[Group]:
    """Group sites: the applied ones first, then the most frequent; each group names up to ``names`` nodes."""
    members: dict[tuple[str, str, str | None], list[str]] = {}
    for site in sites:
        members.setdefault((site.rewrite, site.op, site.reason), []).append(site.node)
    ranked = sorted(members.items(), key=lambda item: (item[0][2] is not None, -len(item[1])))
    groups = [
        Group(rewrite, op, reason, len(nodes), tuple(map(shorten, nodes[:names])))
        for (rewrite, op, reason), nodes in ranked[:GROUPS]
    ]
    if rest := ranked[GROUPS:]:
        count = sum(len(nodes) for _, nodes in rest)
        groups.append(Group("", "", f"{len(rest):,} other reasons: see manifest.json", count, ()))
    return groups


def grouped(sites: Iterable[SiteRecord]) -> list[tuple[str, int, str]]:
    """Sum sites up by reason, the most frequent first: reason, count, and the operators as ``Conv ×3, Gemm``."""
    reasons: dict[str, dict[str, int]] = {}
    for site in sites:
        operators = reasons.setdefault(site.reason or "applied", {})
        operators[site.op] = operators.get(site.op, 0) + 1
    ranked = sorted(reasons.items(), key=lambda item: -sum(item[1].values()))
    lines = [(reason, sum(ops.values()), _operators(ops)) for reason, ops in ranked]
    if len(lines) <= GROUPS:
        return lines
    rest = lines[GROUPS:]
    return [*lines[:GROUPS], (f"{len(rest):,} other reasons: see manifest.json", sum(n for _, n, _ in rest), "")]


def shared(by_variant: Mapping[str, Sequence[T]]) -> list[tuple[T, tuple[str, ...]]]:
    """Return each distinct record once, in order of appearance, with the variants that have it."""
    seen: list[tuple[T, list[str]]] = []
    for variant, records in by_variant.items():
        for record in records:
            owners = next((names for known, names in seen if known == record), None)
            if owners is None:
                seen.append((record, [variant]))
            elif variant not in owners:
                owners.append(variant)
    return [(record, tuple(names)) for record, names in seen]


def conversions(quantized: Quantized) -> list[str]:
    """Say what was quantized, and what was not, for each reason."""
    left = [f"not quantized: {ops}: {reason}" for reason, _, ops in grouped(quantized.left)]
    return [f"quantized: {_operators(quantized.converted)}", *(left or ["not quantized: no node that has weights"])]


def _operators(counts: Mapping[str, int]) -> str:
    return ", ".join(op if n == 1 else f"{op} ×{n}" for op, n in sorted(counts.items(), key=lambda i: (-i[1], i[0])))
