"""A graph through the default pipeline: every form of every rewrite, applied wherever it fits, nothing measured.

After each the graph must compute what it did before, within the bound of re-association: ORT runs both, with its own
optimisations off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import onnx_ir as ir

from dlc import pipeline
from dlc.passes.base import Pass, clone
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.rewrite import Rewrite
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.stages.rewriting import rewrites
from dlc.target import detect
from dlc.tolerance import distance, reassociation
from dlc.types import Array, Outputs

Fed: TypeAlias = Mapping[str, Any]
"""What ORT takes: arrays, lists of arrays for sequences, None for an optional that is absent."""
EXACT = frozenset({"split-residual", "unroll-grid"})
"""Rewrites that move no sum and no product: not one bit may change."""
UNOPTIMISED = SessionConfig(graph_optimization="none")


class Differs(AssertionError):
    """A pass broke its promise, or changed the numbers."""


def default_rewrites() -> tuple[Rewrite, ...]:
    """The rewrites of the FP32 graph for this machine."""
    return rewrites(detect())


def through(model: ir.Model, feeds: Sequence[Fed], passes: Sequence[Rewrite]) -> Counter[str]:
    """Take a model through the pipeline in place; count the places at which each rewrite was applied.

    Each form is tried on a copy; the last one that fits stays. Differs says which pass went wrong, and how.
    """
    applied = Counter[str]()
    outputs = evaluate(model, feeds)
    _held(Canonicalize(), model, feeds, outputs)
    for each in passes:
        fitting = [form for form in each.alternatives() if any(r is None for _, r in form.survey(model))]
        for form in fitting:
            trial = clone(model)
            applied[form.name] += _held(form, trial, feeds, outputs)
            kept = trial
        if fitting:
            model = kept
    return applied


def _held(each: Pass, model: ir.Model, feeds: Sequence[Fed], stated: Sequence[Outputs]) -> int:
    """Run one pass under the pipeline's checks; return at how many places it was applied."""
    bound = 0.0 if each.name in EXACT else reassociation(model)
    [record] = pipeline.run(model, [each])
    if record.modified:
        bound = bound and max(bound, reassociation(model))
        for before, after in zip(stated, evaluate(model, feeds), strict=True):
            apart, where = distance(after, before)
            if apart > bound:
                raise Differs(f"{each.name} changed {where!r} by {apart:.3g}; bound {bound:.3g}")
    return sum(site.applied for site in record.sites)


def evaluate(model: ir.Model, feeds: Sequence[Fed]) -> list[Outputs]:
    """Run a model on several sets of feeds."""
    with OrtCpuRunner(model, UNOPTIMISED) as runner:
        return [_flat(runner.infer(each)) for each in feeds]


def _flat(outputs: Mapping[str, Any]) -> Outputs:
    """Name each array of a sequence or a map on its own; an optional that is absent is an empty array of no type."""
    found: Outputs = {}
    for name, value in outputs.items():
        if isinstance(value, Mapping):
            found |= _flat({f"{name}[{key}]": inner for key, inner in value.items()})
        elif isinstance(value, list):
            found |= _flat({f"{name}[{i}]": inner for i, inner in enumerate(value)})
            found[f"len({name})"] = np.array(len(value))
        else:
            found[name] = np.array([], "V1") if value is None else _comparable(np.asarray(value))
    return found


def _comparable(array: Array) -> Array:
    """Widen the small float types that numpy's own arithmetic does not know."""
    small = array.dtype.kind == "V" or array.dtype.name.startswith(("bfloat", "float8", "float4"))
    return array.astype(np.float32) if small and array.dtype.name in dir(ml_dtypes) else array


Check: TypeAlias = Callable[[ir.Model, Sequence[Fed]], None]
