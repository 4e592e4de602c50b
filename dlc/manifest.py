"""The record of one compile, ``manifest.json``: schema ``dlc-manifest/1``. Units are in the field names.

``docs/manifest.schema.json`` is made from these classes: ``python -m dlc.manifest > docs/manifest.schema.json``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

SCHEMA: Final = "dlc-manifest/1"

Status = Literal["pass", "fail", "inconclusive", "not built"]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=False):
    """Base of every part of a manifest."""


class Estimate(Record, frozen=True, kw_only=True):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


class SiteRecord(Record, frozen=True, kw_only=True):
    """One place a rewrite considered; ``reason`` is null where it was applied.

    ``ratio``: latency of the place afterwards as a share of before, where it was measured on its own.
    """

    rewrite: str
    node: str
    op: str
    reason: str | None
    ratio: float | None = None


class PassEntry(Record, frozen=True, kw_only=True):
    """One pass that ran, with its options and hit counts."""

    name: str
    options: Mapping[str, Any]
    modified: bool
    applied: int
    skipped: int
    nodes_before: int
    nodes_after: int
    sites: tuple[SiteRecord, ...]


class Choice(Record, frozen=True, kw_only=True):
    """A rewrite, measured on the whole model after its places were chosen one by one: kept, or rolled back.

    ``predicted``: the ratio that the savings of its places add up to. The rewrite ``all`` is every kept one together.
    """

    rewrite: str
    kept: bool
    ratio: Estimate
    reason: str
    predicted: float | None = None


class Quantized(Record, frozen=True, kw_only=True):
    """What a precision pass converted: operator type to count, and every weighted node it left, with the reason."""

    converted: Mapping[str, int]
    left: tuple[SiteRecord, ...]
    weight_bytes_before: int
    weight_bytes_after: int


class MixRecord(Record, frozen=True, kw_only=True):
    """A mix of FP32 and 8 bits as it was measured: ``excluded`` names the nodes that stay in FP32.

    ``kept``: share of FP32's quality on held-out calibration data. ``ratio``: latency against the rewritten FP32 graph.
    """

    excluded: tuple[str, ...]
    latency_ms: float
    ratio: Estimate
    kept: Estimate
    bytes: int


class SearchRecord(Record, frozen=True, kw_only=True):
    """The search of a mix. ``front``: mixes that none beats on what is kept and on latency, or size, FP32 included.

    ``evaluations``, of ``allowed``: mixes that were built and measured. ``plain``: all ``units`` in 8 bits.
    """

    objective: str
    units: int
    evaluations: int
    allowed: int
    seconds: float
    stopped: str
    front: tuple[MixRecord, ...]
    plain: MixRecord
    chosen: MixRecord | None


class Agreement(Record, frozen=True, kw_only=True):
    """Closeness to the reference's outputs, without labels. ``argmax``: share of equal rows, null without classes.

    ``kl``: mean Kullback-Leibler divergence in nats of a row's softmax from the reference's, null without classes too.
    ``interval``: of the mean cosine, 95 %, over the examples. ``error``: its standard error, null where outputs have no
    row an example. Both are null of one example.
    """

    argmax: float | None
    kl: float | None = None
    cosine: float
    sqnr_db: float
    examples: int
    interval: tuple[float, float] | None = None
    error: float | None = None


class Simulation(Record, frozen=True, kw_only=True):
    """How close the kernels of a quantized graph come to its simulation in float; ``note`` where there is none."""

    agreement: Agreement | None = None
    note: str = ""


class Accuracy(Record, frozen=True, kw_only=True):
    """The task metric of a variant; ``retention`` is its share of the reference's, paired example by example.

    ``drop``: how far it fell behind, in the metric's unit. Of an error (``higher_is_better`` false), ``retention`` is
    the reference's divided by the variant's, and ``drop`` what was added. ``chance``: one-sided p-value that it holds
    its gate, null where none was asked.
    """

    metric: str
    unit: str = ""
    higher_is_better: bool = True
    value: Estimate
    retention: Estimate
    drop: Estimate
    examples: int
    chance: float | None = None


class SliceRecord(Record, frozen=True, kw_only=True):
    """The task metric on a part of the evaluation data, ``name=label``; ``note``: why it has no value there.

    ``failed``: FP32 has a value there, and the variant none.
    """

    name: str
    examples: int
    accuracy: Accuracy | None = None
    note: str = ""
    failed: bool = False


class Latency(Record, frozen=True, kw_only=True):
    """Interleaved runs. ``ratio`` is against the FP32 baseline (stock ONNX Runtime, the exported graph, same run).

    It is of the fastest run of each sitting, or of medians for a single sitting. ``logs``: log of the ratio, one a
    sitting. ``settled``: in how many sittings the warm-up came to an end. Neither is there for a single sitting. A
    percentile is null where fewer than 10 runs lie beyond it.
    """

    median_ms: float
    mean_ms: float
    p10_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    runs: int
    ratio: Estimate
    samples_ms: tuple[float, ...]
    logs: tuple[float, ...] = ()
    settled: int | None = None


class Lifetime(Record, frozen=True, kw_only=True):
    """One planned buffer: bytes at ``[offset, offset + size)`` from step ``first`` until before step ``last``."""

    name: str
    size: int
    offset: int
    first: int
    last: int


class Memory(Record, frozen=True, kw_only=True):
    """Planned activation memory at the stated shapes, and the measured peak of a process that runs the model."""

    arena_bytes: int | None
    lower_bound_bytes: int | None
    weights_bytes: int
    dims: Mapping[str, int]
    peak_rss_bytes: int
    runtime_rss_bytes: int
    note: str = ""


class Rung(Record, frozen=True, kw_only=True):
    """One way of holding a variant, and the bytes it adds to a process; ``bytes`` null where it could not be run."""

    precision: str
    rung: str
    bytes: int | None
    fits: bool
    note: str = ""


class Budget(Record, frozen=True, kw_only=True):
    """A memory budget and what was tried to meet it; ``chosen``: the precision and the way that fit, empty if none."""

    budget_bytes: int
    tried: tuple[Rung, ...]
    chosen: str


class Size(Record, frozen=True, kw_only=True):
    """Bytes on disk of the model and its external data, as they are and compressed (zlib, level 6)."""

    bytes: int
    compressed_bytes: int
    ratio: float


class Start(Record, frozen=True, kw_only=True):
    """Start in a process of its own: ``load_ms`` makes a session where none was before, ``first_ms`` calls it first.

    Of the fastest of three processes; of one, where that took over a second.
    """

    load_ms: float
    first_ms: float


class VerdictRecord(Record, frozen=True, kw_only=True):
    """Pass, fail or inconclusive, and a line of evidence for each gate."""

    status: Status
    reasons: tuple[str, ...]


class ExpectationRecord(Record, frozen=True, kw_only=True):
    """At how many places a rewrite fits, and must at least. ``there``: of those found, the ones the exporter fused.

    ``applied``: where it was faster. ``reasons``: why it fits nowhere else, the most frequent first.
    """

    rewrite: str
    expected: int
    found: int
    there: int
    applied: int
    reasons: tuple[str, ...]


class GoldenTolerance(Record, frozen=True, kw_only=True):
    """How close a replay on another machine must come: ``max|a-b| <= bound·max|b|``, and where that is from."""

    bound: float
    reason: str


class LayerRecord(Record, frozen=True, kw_only=True):
    """How far an inner value of a variant is from the fp32 variant's; ``node`` and ``op`` compute it there."""

    value: str
    node: str
    op: str
    sqnr_db: float


class Peaks(Record, frozen=True, kw_only=True):
    """The most that the machine of the measurements did, each second, with the session's threads.

    ``float_ops``, ``integer_ops``: of a product of float32 and of u8·s8 matrices, on ONNX Runtime; a multiply-add is
    two. ``bytes``: of arrays far larger than the caches, copied or read; ``cache_bytes``: of arrays that stay in them.
    """

    float_ops: float
    integer_ops: float
    bytes: float
    cache_bytes: float


class KernelRecord(Record, frozen=True, kw_only=True):
    """One node as it ran, its fastest time, and its work; null where a shape is unknown."""

    node: str
    op: str
    microseconds: float
    ops: int | None
    bytes: int | None
    integer: bool = False


class Work(Record, frozen=True, kw_only=True):
    """What one run on the measured input does, counted from the graph as it runs (``dlc.work``), at its shapes.

    ``uncounted``: operators of which nothing is known. ``kernels``: the nodes that took longest, longest first.
    """

    float_ops: int
    integer_ops: int
    bytes: int
    uncounted: tuple[str, ...] = ()
    kernels: tuple[KernelRecord, ...] = ()


class VariantRecord(Record, frozen=True, kw_only=True):
    """One precision of the model. ``layers``: inner values that differ most from the fp32 variant's, worst first."""

    precision: str
    verdict: VerdictRecord
    notes: tuple[str, ...] = ()
    passes: tuple[PassEntry, ...] = ()
    choices: tuple[Choice, ...] = ()
    quantized: Quantized | None = None
    search: SearchRecord | None = None
    accuracy: Accuracy | None = None
    agreement: Agreement | None = None
    simulation: Simulation | None = None
    latency: Latency | None = None
    size: Size | None = None
    memory: Memory | None = None
    start: Start | None = None
    golden: GoldenTolerance | None = None
    layers: tuple[LayerRecord, ...] = ()
    slices: tuple[SliceRecord, ...] = ()
    work: Work | None = None


class ContractRecord(Record, frozen=True, kw_only=True):
    """What the recipe promises of a data set, in words; every check of its values held when the data was read."""

    id: str
    version: str
    sha256: str | None = None
    source: str = ""
    label: str = ""
    sampling: str = ""
    window: tuple[str, str] | None = None
    privacy: str = ""


class DataRecord(Record, frozen=True, kw_only=True):
    """A data set as it was used; ``sha256`` covers every byte fed and every target."""

    role: Literal["calibration", "evaluation"]
    name: str
    source: str
    examples: int
    sha256: str
    contract: ContractRecord | None = None


class SourceRecord(Record, frozen=True, kw_only=True):
    """Where the graph came from."""

    kind: Literal["module", "pt2", "onnx"]
    sha256: str
    parity: str


class TargetRecord(Record, frozen=True, kw_only=True):
    """Where it was measured. ``cpu``, ``cores``, ``system``: the machine, empty and 0 where it is not known."""

    provider: str
    arch: str
    isa: tuple[str, ...]
    threads: int
    runtime: str
    opset: int
    ir_version: int
    cpu: str = ""
    cores: int = 0
    system: str = ""

    @property
    def machine(self) -> str:
        """The machine in words, ``AMD EPYC 7R13, 2 cores, Linux 6.1.0, glibc 2.36``; empty where it is not known."""
        cores = f"{self.cores} {'core' if self.cores == 1 else 'cores'}" if self.cores else ""
        return ", ".join(filter(None, (self.cpu, cores, self.system)))


class Reference(Record, frozen=True, kw_only=True):
    """What the variants are judged against: accuracy of ``accuracy_runner``, speed and size of the baseline session.

    ``pinned``: the models were timed on one CPU that the system kept for them. ``again``: log of the baseline's latency
    against a second session of itself, one a sitting: how far it strays from 0 is the noise floor. ``away``: share of
    the time in which the system ran something else, null where that is unknown.
    """

    accuracy_runner: str
    metric: str | None
    unit: str = ""
    value: Estimate | None
    examples: int
    latency: Latency
    pinned: bool = False
    again: tuple[float, ...] = ()
    away: float | None = None
    size: Size
    memory: Memory
    start: Start | None = None
    work: Work | None = None


class Interfaces(Record, frozen=True, kw_only=True):
    """Inputs and outputs, as text: ``name: dtype[shape]``."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Manifest(Record, frozen=True, kw_only=True):
    """One compile."""

    schema: Literal["dlc-manifest/1"]
    name: str
    seed: int
    source: SourceRecord
    target: TargetRecord
    measured_on: TargetRecord
    versions: Mapping[str, str]
    interface: Interfaces
    dims: Mapping[str, tuple[int, int, int]]
    data: tuple[DataRecord, ...]
    gates: Mapping[str, float | None]
    expect_fusions: tuple[ExpectationRecord, ...] = ()
    reference: Reference
    variants: tuple[VariantRecord, ...]
    warnings: tuple[str, ...] = ()
    budget: Budget | None = None
    peaks: Peaks | None = None


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (Draft 2020-12) of ``manifest.json``."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:dlc:{SCHEMA.replace('/', ':')}",
        "title": SCHEMA,
        **msgspec.json.schema(Manifest),
    }


def schema_text() -> str:
    """Return the schema as it is published."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
