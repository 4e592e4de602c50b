"""A graph through the default pipeline: every form of every rewrite, applied wherever it fits, nothing measured.

After each the graph must compute what it did before, within the bound of re-association: ORT runs both, with its own
optimisations off.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import onnx_ir as ir

from dlc import pipeline
from dlc.errors import ModelError
from dlc.passes.base import Pass, clone
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.rewrite import Rewrite
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.stages.defaults import rewrites
from dlc.target import detect
from dlc.tolerance import distance, reassociation
from dlc.types import Array, Outputs

Fed: TypeAlias = Mapping[str, Any]
"""What ORT takes: arrays, lists of arrays for sequences, None for an optional that is absent."""
EXACT = frozenset({
    "move-qdq", "share-dynamic-quantize", "slice-table", "split-residual", "unpack-integer-products", "unroll-grid",
})  # fmt: skip
"""Rewrites that move no sum and no product: not one bit may change."""
WANT_ELEMENTS = frozenset({"fuse-attention", "pool-mean"})
"""Rewrites to operators of which ONNX Runtime's kernels refuse an empty batch, sequence or map.

No dimension can be declared that small, and a form that fails at a measured size is left: ``docs/rewrites.md``, Sizes.
Here nothing is measured. Where one fails to run for that, it is compared at the other sizes alone; wrong numbers are
never passed over.
"""
UNOPTIMISED = SessionConfig(graph_optimization="none")


class Differs(AssertionError):  # noqa: N818 - reads as what it says
    """A pass broke its promise, or changed the numbers."""


def default_rewrites() -> tuple[Rewrite, ...]:
    """The rewrites of the FP32 graph for this machine."""
    return rewrites(detect())


def through(model: ir.Model, feeds: Sequence[Fed], passes: Sequence[Rewrite]) -> Counter[str]:
    """Take a model through the pipeline; count the places at which each rewrite was applied. The model changes.

    Each form is tried on a copy; the last one that fits stays. Differs says which pass went wrong, and how.
    """
    applied = Counter[str]()
    points = [Point(clone(model), fed, outputs) for fed, outputs in zip(feeds, evaluate(model, feeds), strict=True)]
    _held(Canonicalize(), model, points)
    for each in passes:
        trial = None
        at = [p.moved_to(model) for p in points] if each.name in EXACT else points
        for form in each.alternatives():
            if any(reason is None for _, reason in form.survey(model)):
                trial = clone(model)
                applied[form.name] += _held(form, trial, at)
        if trial is not None:
            model = trial
            points = [p for p in points if each.name not in WANT_ELEMENTS or not p.empty]
    return applied


@dataclass(frozen=True, slots=True)
class Point:
    """What a model computes from some feeds."""

    model: ir.Model
    feeds: Fed
    outputs: Outputs

    @property
    def empty(self) -> bool:
        """Whether an input has no elements."""
        return any(isinstance(v, np.ndarray) and v.size == 0 for v in self.feeds.values())

    def moved_to(self, model: ir.Model) -> Point:
        """Return what another model computes from them."""
        return Point(clone(model), self.feeds, *evaluate(model, [self.feeds]))

    def enlarges(self) -> float:
        """How many times a rounding of the inputs grows on its way to the outputs; at least 1.

        A difference of equal sums is nothing but rounding, however small the bound: any other order gives another.
        """
        kinds = [v.dtype for v in self.feeds.values() if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
        eps = max((float(np.finfo(kind).eps) for kind in kinds), default=1.0)
        rng, moved = np.random.default_rng(0), 0.0
        for _ in range(NUDGES):
            nudged = {name: _nudged(v, eps, rng) for name, v in self.feeds.items()}
            [outputs] = evaluate(self.model, [nudged])
            moved = max(moved, distance(outputs, self.outputs)[0])
        return max(1.0, moved / eps) if math.isfinite(moved) else 1.0


NUDGES = 4


def _nudged(value: Any, eps: float, rng: np.random.Generator) -> Any:
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return value
    return (value * (1 + eps * rng.choice([-1, 1], value.shape))).astype(value.dtype)


def _held(each: Pass, model: ir.Model, points: Sequence[Point]) -> int:
    """Run one pass under the pipeline's checks; return at how many places it was applied."""
    bound = reassociation(model)
    [record] = pipeline.run(model, [each])
    bound = 0.0 if each.name in EXACT else max(bound, reassociation(model))
    for point in points if record.modified else ():
        try:
            [after] = evaluate(model, [point.feeds])
        except ModelError as error:
            if each.name in WANT_ELEMENTS and point.empty:
                continue
            raise Differs(f"{each.name} left a model that does not run: {error}") from error
        apart, where = distance(after, point.outputs)
        if apart > bound and (not bound or apart > bound * point.enlarges()):
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
