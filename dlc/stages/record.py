"""From what was built and measured to the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata

import msgspec

from dlc import __version__, manifest
from dlc.data import NEARLY, DataSummary, inspect, leaked, nearly_leaked
from dlc.errors import DataError
from dlc.export import Exported
from dlc.harness.judge import Finding, Noise, judge, verdicts
from dlc.harness.sequences import check_state
from dlc.harness.slices import labels
from dlc.interface import Interface
from dlc.memory_plan import MemoryPlan
from dlc.passes.base import weight_bytes
from dlc.recipe import Dataset, Gates, Recipe
from dlc.stages.calibrating import too_few
from dlc.stages.evidence import BASELINE, Evidence, Measured
from dlc.stages.shipping import golden_tolerance
from dlc.stages.variants import Build, pass_entry
from dlc.target import Target, detect
from dlc.types import Bytes

TOOLS = ("numpy", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "onnxscript", "torch")

ONE_STEP = "judged on single steps: errors that add up in the state over a sequence are not seen"


@dataclass(frozen=True, slots=True)
class CheckedData:
    """The data sets of a recipe as they were found, and the examples that are in both.

    ``batches``: how many the calibration data has.
    """

    records: tuple[manifest.DataRecord, ...]
    leaked: int
    warnings: tuple[str, ...] = ()
    batches: int = 0

    def examples(self, role: str) -> int:
        """Return how many examples a data set has, 0 where there is none."""
        return next((r.examples for r in self.records if r.role == role), 0)


def check_data(recipe: Recipe, interface: Interface, *, evaluating: bool) -> CheckedData:
    """Read the recipe's data once, before hours are spent on it; DataError says what does not fit."""
    check_state(recipe.state, interface)
    evaluation = recipe.evaluation if evaluating else None
    found: dict[str, DataSummary] = {}
    records: list[manifest.DataRecord] = []
    for role, dataset in (("calibration", recipe.calibration), ("evaluation", evaluation)):
        if dataset is not None:
            found[role] = inspect(dataset, interface, recipe.state if role == "evaluation" else None)
            records.append(_data_record(role, dataset, found[role]))
    if evaluation is not None and recipe.metric is not None and evaluation.targets is None:
        raise DataError(f"data set {evaluation.name!r} has no targets, so {recipe.metric.name} cannot be computed")
    if evaluation is not None and evaluation.slices:
        if recipe.metric is None or evaluation.targets is None:
            raise DataError(f"data set {evaluation.name!r} has slices, and no metric and targets to measure on them")
        labels(evaluation, len(evaluation.targets()))
    both = leaked(found["calibration"], found["evaluation"]) if len(found) == 2 else 0
    nearly = nearly_leaked(found["calibration"], found["evaluation"]) if len(found) == 2 else 0
    warnings = [ONE_STEP] if recipe.state and evaluation is None else []
    if "calibration" in found and (few := too_few(found["calibration"])):
        warnings.append(few)
    if nearly:
        warnings.append(NEARLY.format(nearly))
    batches = found["calibration"].batches if "calibration" in found else 0
    return CheckedData(tuple(records), both, tuple(warnings), batches)


def to_manifest(
    recipe: Recipe, target: Target, seed: int, exported: Exported, data: CheckedData, evidence: Evidence,
    builds: Sequence[Build], plans: Mapping[str, MemoryPlan], hits: Sequence[manifest.ExpectationRecord] = (),
    gaps: Mapping[str, manifest.Simulation | None] | None = None,
) -> manifest.Manifest:  # fmt: skip
    """Judge every variant and put everything on record."""
    interface = Interface.of(exported.model)
    sizes = {name: dim.typical for name, dim in exported.dims.items()}
    warnings = (*recipe.notes, *exported.notes, *data.warnings)
    here = detect(target.provider, target.threads)
    elsewhere = target.fingerprint != here.fingerprint
    if elsewhere:
        warnings += ("compiled for another target: latency, memory and the choice of rewrites were measured here",)
    if data.leaked:
        warnings += (f"{data.leaked} calibration examples are also evaluation examples",)
    baseline = evidence.of[BASELINE]
    noise = Noise(evidence.timed.sittings.again, evidence.timed.sittings.away)
    judging = partial(
        _findings, gates=recipe.gates, leaked=data.leaked, hits=hits, elsewhere=elsewhere, noise=noise
    )  # fmt: skip
    judged = verdicts([judging(b, evidence.of.get(b.precision)) for b in builds])
    return manifest.Manifest(
        schema=manifest.SCHEMA,
        name=recipe.name,
        seed=seed,
        source=manifest.SourceRecord(kind=exported.kind, sha256=exported.sha256, parity=exported.parity),
        target=manifest.TargetRecord(**asdict(target)),
        measured_on=manifest.TargetRecord(**asdict(here)),
        versions={"dlc": __version__, **installed()},
        interface=manifest.Interfaces(
            inputs=tuple(map(str, interface.inputs)), outputs=tuple(map(str, interface.outputs))
        ),
        dims={name: (dim.min, dim.max, dim.typical) for name, dim in exported.dims.items()},
        data=data.records,
        gates=asdict(recipe.gates),
        expect_fusions=tuple(hits),
        reference=manifest.Reference(
            accuracy_runner=evidence.reference,
            metric=recipe.metric.name if recipe.metric and evidence.value else None,
            unit=recipe.metric.unit if recipe.metric else "",
            value=evidence.value,
            examples=evidence.examples,
            latency=baseline.latency,
            pinned=evidence.timed.pinned,
            again=evidence.timed.sittings.again,
            away=evidence.timed.sittings.away,
            size=baseline.size,
            memory=_memory(baseline, None, sizes, weight_bytes(exported.model)),
            start=manifest.Start(load_ms=baseline.rss.load_ms, first_ms=baseline.rss.first_ms),
        ),
        variants=tuple(
            msgspec.structs.replace(
                _variant(b, evidence.of.get(b.precision), plans.get(b.precision), verdict, sizes),
                simulation=(gaps or {}).get(b.precision),
            )
            for b, verdict in zip(builds, judged, strict=True)
        ),
        warnings=warnings,
    )


def _findings(
    build: Build, measured: Measured | None, *, gates: Gates, leaked: int, hits: Sequence[manifest.ExpectationRecord],
    elsewhere: bool, noise: Noise,
) -> list[Finding]:  # fmt: skip
    if build.model is None or measured is None:
        return []
    return judge(
        build.precision, gates, latency=measured.latency, size=measured.size, accuracy=measured.accuracy,
        agreement=measured.agreement, fault=measured.fault, leaked=leaked, elsewhere=elsewhere, hits=hits,
        slices=measured.slices, noise=noise,
    )  # fmt: skip


def _variant(
    build: Build, measured: Measured | None, plan: MemoryPlan | None, verdict: manifest.VerdictRecord,
    sizes: Mapping[str, int],
) -> manifest.VariantRecord:  # fmt: skip
    passes = tuple(map(pass_entry, build.records))
    if build.model is None or measured is None:
        verdict = manifest.VerdictRecord(status="not built", reasons=(build.reason,))
        return manifest.VariantRecord(precision=build.precision, verdict=verdict, passes=passes, search=build.search)
    return manifest.VariantRecord(
        precision=build.precision,
        verdict=verdict,
        notes=build.notes,
        passes=passes,
        choices=build.choices,
        quantized=build.quantized,
        search=build.search,
        accuracy=measured.accuracy,
        agreement=measured.agreement,
        latency=measured.latency,
        size=measured.size,
        memory=_memory(measured, plan, sizes, weight_bytes(build.model)),
        start=manifest.Start(load_ms=measured.rss.load_ms, first_ms=measured.rss.first_ms),
        golden=golden_tolerance(build.precision, build.model),
        slices=measured.slices,
    )


def _memory(measured: Measured, plan: MemoryPlan | None, sizes: Mapping[str, int], weights: Bytes) -> manifest.Memory:
    return manifest.Memory(
        arena_bytes=plan.arena_bytes if plan else None,
        lower_bound_bytes=plan.lower_bound_bytes if plan else None,
        weights_bytes=weights,
        dims=sizes,
        peak_rss_bytes=measured.rss.peak,
        runtime_rss_bytes=measured.rss.runtime,
        note=plan.note if plan else "",
    )


def _data_record(role: str, dataset: Dataset, found: DataSummary) -> manifest.DataRecord:
    plain = {"role": role, "name": dataset.name, "source": dataset.source, "examples": found.examples}
    record = msgspec.convert({**plain, "sha256": found.sha256}, manifest.DataRecord)
    if dataset.contract is None:
        return record
    promised = {name: getattr(dataset.contract, name) for name in manifest.ContractRecord.__struct_fields__}
    return msgspec.structs.replace(record, contract=manifest.ContractRecord(**promised))


def installed() -> dict[str, str]:
    """Return the versions, here, of the packages that a result may depend on."""
    found = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in metadata.distributions()}
    return {name: found[name] for name in TOOLS if name in found}
