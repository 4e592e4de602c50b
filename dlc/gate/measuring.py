"""Measures artifacts anew: their files, on the data of their recipe. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict

import msgspec
import numpy as np

from dlc import __version__
from dlc.artifact import MODEL, Artifact
from dlc.errors import DlcError
from dlc.gate.observation import Observation, Resident, Rows, Score, SliceScore, VariantSeen
from dlc.gate.scoring import Scored, score
from dlc.gate.subjects import REFERENCE, Judged, judged, one_interface
from dlc.gate.timing import How, Timed, time
from dlc.harness import statistics
from dlc.harness.accuracy import Metric
from dlc.harness.memory import Rss, peak_rss, sizes
from dlc.manifest import TargetRecord
from dlc.progress import Progress, track
from dlc.recipe import Recipe
from dlc.stages.record import installed
from dlc.target import detect
from dlc.types import Floats

PROCESSES = 3
"""Processes that measure a model's peak memory: what the system's allocator does differs between them."""

Golden = tuple[float, float] | None


def observe(artifacts: Sequence[Artifact], recipe: Recipe | None, how: How, progress: Progress) -> list[Observation]:
    """Measure artifacts side by side, in the same sittings; the first one's FP32 is the reference of all."""
    subjects = [judged(artifact, how.variants, index) for index, artifact in enumerate(artifacts)]
    everyone = [s for each in subjects for s in each]
    with ExitStack() as stack:
        runners = {s.name: stack.enter_context(s.subject.runner()) for s in everyone}
        interface = one_interface(runners)
        progress.stage("replay golden vectors", len(everyone))
        golden = {s.name: s.golden(runners[s.name]) for s in track(progress, everyone)}
        progress.stage("measure accuracy")
        scored = score(recipe, interface, everyone[0], runners, how.seed, progress)
    timed = time(everyone, interface, how, progress)
    progress.stage("measure memory", len(everyone))
    seen = {s.name: _variant(s, scored, golden[s.name], timed, how.seed) for s in track(progress, everyone)}
    return [
        _observation(artifact, tuple(seen[s.name] for s in each), scored, timed, how)
        for artifact, each in zip(artifacts, subjects, strict=True)
    ]


def retimed(
    artifacts: Sequence[Artifact], found: Sequence[Observation], how: How, progress: Progress
) -> list[Observation]:
    """Measure latency once more, with everything else as it was found."""
    subjects = [judged(artifact, how.variants, index) for index, artifact in enumerate(artifacts)]
    everyone = [s for each in subjects for s in each]
    with everyone[0].subject.runner() as runner:
        interface = runner.interface
    timed = time(everyone, interface, how, progress)
    return [
        msgspec.structs.replace(
            seen, again=timed.sittings.again, again_throughput=timed.again_throughput, away=timed.sittings.away,
            reference_ms=timed.reference_ms,
            variants=tuple(
                msgspec.structs.replace(v, timing=timed.timing(s.name, Rss(0, 0, v.timing.load_ms, v.timing.first_ms)))
                for s, v in zip(each, seen.variants, strict=True)
            ),
        )
        for each, seen in zip(subjects, found, strict=True)
    ]  # fmt: skip


def _variant(judged: Judged, scored: Scored, golden: Golden, timed: Timed, seed: int) -> VariantSeen:
    found, record = scored.of[judged.name], judged.record
    rss = _processes(judged, timed)
    return VariantSeen(
        precision=record.precision,
        files=judged.files(),
        session=judged.subject.config,
        passes=judged.passes(),
        kept=tuple(c.rewrite for c in record.choices if c.kept),
        converted=record.quantized.converted if record.quantized else {},
        left=tuple(s.node for s in record.quantized.left) if record.quantized else (),
        fault=found.fault,
        score=_score(scored, judged.name, seed),
        agreement=found.agreement,
        outputs=scored.outputs[judged.name],
        golden=golden,
        timing=timed.timing(judged.name, min(rss, key=lambda r: r.load_ms + r.first_ms)),
        size=sizes(judged.subject.files),
        memory=Resident(peak_bytes=tuple(r.peak for r in rss), runtime_bytes=min(r.runtime for r in rss)),
    )


def _processes(judged: Judged, timed: Timed) -> list[Rss]:
    model, config = judged.subject.folder / MODEL, judged.subject.config
    return [peak_rss(model, config, timed.feeds) for _ in range(PROCESSES)]


def _score(scored: Scored, name: str, seed: int) -> Score | None:
    metric, rows = scored.metric, scored.of[name].rows
    if metric is None or rows is None:
        return None
    value = statistics.metric(rows, metric.statistic, rng=np.random.default_rng(seed))
    slicings = scored.data.slicings if scored.data is not None else ()
    return Score(
        metric=metric.name, unit=metric.unit, higher_is_better=metric.higher_is_better, value=value, rows=Rows.of(rows),
        slices=tuple(
            SliceScore(name=name, examples=int(where.sum()), value=_on_slice(metric, rows[where]))
            for slicing in slicings for name, where in slicing.members()
        ),
    )  # fmt: skip


def _on_slice(metric: Metric, rows: Floats) -> float | None:
    try:
        return statistics.score(metric.statistic, rows)
    except DlcError:  # say, with one class only
        return None


def _observation(
    artifact: Artifact, variants: tuple[VariantSeen, ...], scored: Scored, timed: Timed, how: How
) -> Observation:
    record, stated = artifact.manifest, artifact.variant(REFERENCE)
    data = {d.role: d.sha256 for d in record.data}
    return Observation(
        model=record.name,
        seed=how.seed,
        objective=how.objective,
        concurrency=how.concurrency,
        dims=timed.dims,
        source=record.source,
        target=record.target,
        compiled_on=record.measured_on,
        measured_on=TargetRecord(**asdict(detect(record.target.provider, record.target.threads))),  # type: ignore[arg-type]
        versions={"dlc": __version__, **installed()},
        compiled_with=record.versions,
        interface=record.interface,
        calibration=data.get("calibration"),
        data=scored.data,
        drawn=scored.drawn,
        reference=REFERENCE,
        reference_ms=timed.reference_ms,
        again=timed.sittings.again,
        again_throughput=timed.again_throughput,
        away=timed.sittings.away,
        stated=stated.accuracy.value if stated.accuracy else None,
        stated_data=data.get("evaluation"),
        stock_ratio=stated.latency.ratio.value if stated.latency else None,
        fusions=record.expect_fusions,
        variants=variants,
    )
