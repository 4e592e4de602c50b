"""From one FP32 graph to each precision: which passes, measured where a measurement decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from dlc import manifest, pipeline
from dlc.costs import Costs
from dlc.errors import CapabilityError, DlcError, PassError, Unsupported, UserError
from dlc.passes.base import Pass, Site, clone, weight_bytes
from dlc.passes.fold_batch_norm import FoldBatchNorm
from dlc.passes.quantized_operators import quantized_operators
from dlc.passes.split_conv_residual import SplitConvResidual
from dlc.pipeline import Evaluate, PassRecord
from dlc.recipe import Precision, Recipe
from dlc.runtimes.session import SessionConfig
from dlc.stages.amending import AS_IT_IS, Amended
from dlc.stages.defaults import quantized_rewrites
from dlc.stages.eight_bit import int8, quicker
from dlc.stages.halves import bf16, fp16
from dlc.stages.loading import session_for
from dlc.stages.mixing import mix
from dlc.stages.recurrent import agreeing, outcomes, recurrent
from dlc.stages.rewriting import Rewritten, rewrite
from dlc.stages.sparing import spared
from dlc.stages.weights_only import bits_of, weights_only
from dlc.target import Target
from dlc.types import Bytes


@dataclass(frozen=True, slots=True)
class Build:
    """A precision's graph, or the reason there is none. ``bug``: what kept it out, or kept a rewrite out of it."""

    precision: Precision
    model: ir.Model | None
    records: tuple[PassRecord, ...] = ()
    choices: tuple[manifest.Choice, ...] = ()
    quantized: manifest.Quantized | None = None
    notes: tuple[str, ...] = ()
    session: SessionConfig = field(default_factory=SessionConfig)
    reason: str = ""
    search: manifest.SearchRecord | None = None
    bug: DlcError | None = None


def build(
    precision: Precision, base: Rewritten, recipe: Recipe, costs: Costs, *, evaluate: Evaluate | None = None,
    amended: Amended = AS_IT_IS,
) -> Build:  # fmt: skip
    """Build one precision from the rewritten FP32 graph, and run it once; what cannot be built says why.

    What was quantized is rewritten by measurement in turn.
    """
    if precision == "fp32":
        session, loading = session_for(base.model, costs)
        return Build(precision, base.model, base.records, (*base.choices, *loading), session=session)
    model = clone(base.model)
    search: manifest.SearchRecord | None = None
    notes, passes = NOTES.get(precision, ()), list[Pass]()
    try:
        apart = [r for r in pipeline.run(model, READY, evaluate=evaluate) if r.modified]
        if came := quantized_operators(model):
            raise Unsupported(_again(came))
        if precision == "mixed":
            mixed = mix(model, recipe, costs, int8)
            passes, search, notes = list(mixed.passes), mixed.record, mixed.notes
            if mixed.reason:
                return Build(precision, None, reason=mixed.reason, search=search)
        else:
            passes = _passes(precision, model, recipe, costs)
        converting = pipeline.run(model, amended.of(passes), evaluate=evaluate)
        records, sites = [*apart, *converting], outcomes(converting)
        if not any(s.applied for s in sites):
            raise Unsupported("nothing was converted: " + _why(sites))
        costs.run(model)
    except PassError as error:
        return Build(precision, None, reason=str(error), bug=error)
    except (UserError, CapabilityError) as error:
        return Build(precision, None, reason=str(error), search=search)
    quantized = _quantized(sites, weight_bytes(base.model), weight_bytes(model))
    notes = (*notes, *(note for each in passes for note in each.notes))
    done = Rewritten(model)
    if precision in REWRITTEN:
        done = rewrite(model, costs, amended.of(quantized_rewrites()), evaluate=evaluate)
    session, loading = session_for(done.model, costs)
    return Build(
        precision, done.model, (*base.records, *records, *done.records), (*base.choices, *done.choices, *loading),
        quantized, notes, session, search=search, bug=next(iter(done.bugs), None),
    )  # fmt: skip


def _quantized(sites: Sequence[Site], before: Bytes, after: Bytes) -> manifest.Quantized:
    return manifest.Quantized(
        converted=dict(sorted(Counter(s.op for s in sites if s.applied).items())),
        left=tuple(site_record(s) for s in sites if not s.applied),
        weight_bytes_before=before,
        weight_bytes_after=after,
    )


def _passes(precision: Precision, model: ir.Model, recipe: Recipe, costs: Costs) -> list[Pass]:
    if (bits := bits_of(precision, recipe)) is not None:
        return [weights_only(model, bits, recipe, costs)]
    passes = PASSES_OF[precision](model, recipe, costs.target)
    return spared(model, quicker(model, passes, recipe, costs), recipe, costs) if precision == "int8" else passes


READY: Sequence[Pass] = (SplitConvResidual(), FoldBatchNorm())
"""What an FP32 graph may have or lack, for ONNX Runtime fuses it at load, but an 8-bit unit may not."""

PASSES_OF: Mapping[Precision, Callable[[ir.Model, Recipe, Target], list[Pass]]] = {
    "fp16": lambda model, recipe, _target: [fp16(model, recipe)],
    "bf16": lambda model, recipe, _target: [bf16(model, recipe)],
    "int8": lambda model, recipe, target: agreeing(
        model, [*recurrent(model, target, recipe.int8), *int8(model, recipe, target)], recipe, target
    ),
}

REWRITTEN: frozenset[Precision] = frozenset(("int8", "int4", "mixed"))
"""Precisions whose graphs hold quantized operators, which have forms to choose from."""

NOTES: Mapping[Precision, tuple[str, ...]] = {
    "fp16": ("on the CPU provider only the weights are rounded to FP16: activations are computed in FP32",),
    "int4": ("products and tables take 4 bits, convolutions 8: with 4 bits they lose the task",),
    "bf16": ("on the CPU provider BF16 is emulated: rounded as BF16 hardware would, computed in FP32",),
}


def pass_entry(record: PassRecord) -> manifest.PassEntry:
    """Record a pass for the manifest."""
    return manifest.PassEntry(
        name=record.name,
        options=dict(record.options),
        modified=record.modified,
        applied=sum(s.applied for s in record.sites),
        skipped=sum(not s.applied for s in record.sites),
        nodes_before=record.nodes_before,
        nodes_after=record.nodes_after,
        sites=tuple(map(site_record, record.sites)),
    )


def site_record(site: Site) -> manifest.SiteRecord:
    """Record a site for the manifest."""
    return manifest.SiteRecord(rewrite=site.rewrite, node=site.node, op=site.op, reason=site.reason, ratio=site.ratio)


def _again(came: Mapping[str, int]) -> str:
    found = ", ".join(f"{op} ×{n}" for op, n in list(came.items())[:3])
    return (
        f"the model is quantized already ({found}): give the FP32 model it was made from, or compile this one with "
        "--variants fp32, which keeps its precision and makes it faster where it can"
    )


def _why(sites: Sequence[Site]) -> str:
    reasons = Counter(f"{s.op}: {s.reason}" for s in sites)
    return "; ".join(f"{reason} ({n} nodes)" for reason, n in reasons.most_common(3)) or "the model has no weights"
