"""Whether rewrites still fit where a recipe expects them to: a contract that no measurement moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from dlc import manifest, pipeline
from dlc.errors import PassError, RuleError
from dlc.passes.base import Site, clone
from dlc.passes.rewrite import Rewrite
from dlc.stages.rewriting import Rewritten

THERE = "already fused"
"""Reason of a site where the exporter wrote the operator that the rewrite would form."""
REASONS = 3


def hits(
    base: Rewritten, passes: Sequence[Rewrite], expected: Mapping[str, int]
) -> tuple[manifest.ExpectationRecord, ...]:
    """Count the places of each expected rewrite, as ``dlc inspect --explain --no-measure`` does.

    Every rewrite is applied wherever it fits, faster or not, so that the count is the same on every machine. What was
    left out as broken is not counted.
    """
    if not expected:
        return ()
    assert base.canonical is not None
    measured = [site for record in base.records for site in record.sites]
    fitting = _fitting(clone(base.canonical), [p for p in passes if p.name not in _broken(base)])
    return tuple(
        _record(name, places, [s for s in fitting if s.rewrite == name], [s for s in measured if s.rewrite == name])
        for name, places in expected.items()
    )


def _record(name: str, places: int, fitting: Sequence[Site], measured: Sequence[Site]) -> manifest.ExpectationRecord:
    there = sum(s.reason == THERE for s in fitting)
    refused = Counter(s.reason for s in fitting or measured if s.reason not in (None, THERE))
    return manifest.ExpectationRecord(
        rewrite=name, expected=places, there=there, found=there + sum(s.applied for s in fitting),
        applied=sum(s.applied for s in measured),
        reasons=tuple(f"{reason} ({n} places)" for reason, n in refused.most_common(REASONS)),
    )  # fmt: skip


def _broken(base: Rewritten) -> set[str]:
    return {bug.culprit for bug in base.bugs if isinstance(bug, (PassError, RuleError))}


def _fitting(model: ir.Model, passes: Sequence[Rewrite]) -> list[Site]:
    """Apply every rewrite wherever it fits; a user's own that breaks the graph there is left out."""
    sites = list[Site]()
    for each in passes:
        trial = model if each.trusted else clone(model)
        try:
            sites += [site for record in pipeline.run(trial, [each]) for site in record.sites]
        except RuleError:
            continue
        model = trial
    return sites
