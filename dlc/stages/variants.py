"""From one FP32 graph to each precision: which passes, measured where a measurement decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from dlc import manifest, pipeline
from dlc.calibrate import calibrate, channel_means
from dlc.costs import Costs
from dlc.errors import CapabilityError, DlcError, PassError, Unsupported, UserError
from dlc.passes.base import Pass, Site, clone, weight_bytes
from dlc.passes.cast_fp16 import CastFp16
from dlc.passes.emulate_bf16 import EmulateBf16
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.passes.quantize_static import QuantizeStatic, channels_to_average, tensors_to_calibrate
from dlc.pipeline import Evaluate, PassRecord
from dlc.recipe import Precision, Recipe
from dlc.runtimes.session import SessionConfig
from dlc.stages.defaults import quantized_rewrites
from dlc.stages.loading import session_for
from dlc.stages.recovering import closest
from dlc.stages.rewriting import Rewritten, rewrite
from dlc.stages.weights_only import weights_only
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
    bug: DlcError | None = None


def build(
    precision: Precision, base: Rewritten, recipe: Recipe, costs: Costs, *, evaluate: Evaluate | None = None
) -> Build:
    """Build one precision from the rewritten FP32 graph, and run it once; what cannot be built says why.

    What was quantized is rewritten by measurement in turn.
    """
    if precision == "fp32":
        session, loading = session_for(base.model, costs)
        return Build(precision, base.model, base.records, (*base.choices, *loading), session=session)
    model = clone(base.model)
    try:
        passes = PASSES_OF[precision](model, recipe, costs)
        records = pipeline.run(model, passes, evaluate=evaluate)
        if not any(s.applied for s in records[-1].sites):
            raise Unsupported("nothing was converted: " + _why(records[-1].sites))
        costs.run(model)
    except PassError as error:
        return Build(precision, None, reason=str(error), bug=error)
    except (UserError, CapabilityError) as error:
        return Build(precision, None, reason=str(error))
    quantized = _quantized(records[-1].sites, weight_bytes(base.model), weight_bytes(model))
    done = Rewritten(model)
    if precision in REWRITTEN:
        done = rewrite(model, costs, quantized_rewrites(), evaluate=evaluate)
    session, loading = session_for(done.model, costs)
    return Build(
        precision, done.model, (*base.records, *records, *done.records), (*base.choices, *done.choices, *loading),
        quantized, NOTES.get(precision, ()), session, bug=next(iter(done.bugs), None),
    )  # fmt: skip


def _quantized(sites: Sequence[Site], before: Bytes, after: Bytes) -> manifest.Quantized:
    return manifest.Quantized(
        converted=dict(sorted(Counter(s.op for s in sites if s.applied).items())),
        left=tuple(site_record(s) for s in sites if not s.applied),
        weight_bytes_before=before,
        weight_bytes_after=after,
    )


def _int8(model: ir.Model, recipe: Recipe, costs: Costs) -> list[Pass]:
    """Static for convolutional nets, dynamic for the rest; weights of 7 bits where 8-bit products saturate."""
    target = costs.target
    if recipe.int8 == "weights":
        return [weights_only(model, 8, recipe.calibration, costs)]
    reduce_range = not target.integer_dot
    if not any(node.op_type == "Conv" for node in model.graph):
        return [QuantizeDynamic(reduce_range=reduce_range)]
    if recipe.calibration is None:
        raise Unsupported(
            "static int8 needs calibration data: give the recipe a calibration set, or compile with -r recipe.toml"
        )
    data, threads = recipe.calibration, target.threads
    ranges = calibrate(model, data.batches(), tensors_to_calibrate(model), threads=threads)
    means = channel_means(model, data.batches(), channels_to_average(model), threads=threads)
    plain = QuantizeStatic(ranges=ranges, reduce_range=reduce_range)
    return [closest(model, [plain, replace(plain, correct_bias=True, means=means)], data, threads=threads)]


PASSES_OF: Mapping[Precision, Callable[[ir.Model, Recipe, Costs], list[Pass]]] = {
    "fp16": lambda _model, _recipe, _costs: [CastFp16()],
    "bf16": lambda _model, _recipe, _costs: [EmulateBf16()],
    "int8": _int8,
    "int4": lambda model, recipe, costs: [weights_only(model, 4, recipe.calibration, costs)],
}

REWRITTEN: frozenset[Precision] = frozenset(("int8", "int4"))
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


def _why(sites: Sequence[Site]) -> str:
    reasons = Counter(f"{s.op}: {s.reason}" for s in sites)
    return "; ".join(f"{reason} ({n} nodes)" for reason, n in reasons.most_common(3)) or "the model has no weights"
