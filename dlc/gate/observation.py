"""What one measurement of an artifact found: the numbers, and all that could explain a change of them."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import Self

import msgspec
import numpy as np

from dlc.manifest import Agreement, Estimate, ExpectationRecord, Interfaces, Record, Size, SourceRecord, TargetRecord
from dlc.runtimes.session import SessionConfig
from dlc.types import Array, Floats


class Rows(Record, frozen=True, kw_only=True):
    """A metric's values per example, [examples, width]: float64, little-endian, zlib, base64."""

    examples: int
    width: int
    packed: str

    @classmethod
    def of(cls, rows: Floats) -> Self:
        """Pack rows."""
        packed = base64.b64encode(zlib.compress(np.ascontiguousarray(rows, "<f8").tobytes())).decode()
        return cls(examples=len(rows), width=rows.shape[1], packed=packed)

    def unpack(self) -> Floats:
        """Return the rows, bit for bit."""
        plain = np.frombuffer(zlib.decompress(base64.b64decode(self.packed)), "<f8")
        return plain.reshape(self.examples, self.width).astype(np.float64)


class SliceScore(Record, frozen=True, kw_only=True):
    """The metric on one slice, ``name=label``; null where it has no value."""

    name: str
    examples: int
    value: float | None


class Score(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The task metric on the evaluation data, and on each of its slices."""

    metric: str
    unit: str
    higher_is_better: bool
    value: Estimate
    rows: Rows
    slices: tuple[SliceScore, ...] = ()


class Timing(Record, frozen=True, kw_only=True):
    """Latency. ``logs``: log of the ratio to the reference, one a sitting; percentiles are of single calls.

    ``throughput``: the same logs of examples per second, where that is the objective. ``load_ms``, ``first_ms``: cold
    start and first call, in a process of its own. ``settled``: in how many sittings the warm-up came to an end.
    """

    logs: tuple[float, ...]
    ratio: Estimate
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    calls: int
    warm_up: int
    settled: int
    load_ms: float
    first_ms: float
    throughput: tuple[float, ...] = ()
    per_second: float | None = None


class Resident(Record, frozen=True, kw_only=True):
    """Peak resident sets of processes that each load and run only this model, and what the bare runtime took."""

    peak_bytes: tuple[int, ...]
    runtime_bytes: int


class PassSeen(Record, frozen=True, kw_only=True):
    """One pass: its options, and the nodes at which it was applied."""

    name: str
    options: Mapping[str, str]
    applied: tuple[str, ...]


class VariantSeen(Record, frozen=True, kw_only=True):
    """One variant: what it is made of, and how it did.

    ``files``: SHA-256 by name. ``outputs``: SHA-256 of every output on the data. ``golden``: largest relative error of
    its golden vectors here, with the bound that they must keep.
    """

    precision: str
    files: Mapping[str, str]
    session: SessionConfig
    passes: tuple[PassSeen, ...]
    kept: tuple[str, ...]
    converted: Mapping[str, int]
    left: tuple[str, ...]
    fault: str | None = None
    score: Score | None = None
    agreement: Agreement | None = None
    outputs: str = ""
    golden: tuple[float, float] | None = None
    timing: Timing
    size: Size
    memory: Resident


class Slicing(Record, frozen=True, kw_only=True):
    """One way to cut the data: the labels, and which each example has: an index of one byte, zlib, base64."""

    name: str
    labels: tuple[str, ...]
    packed: str

    @classmethod
    def of(cls, name: str, given: Array) -> Self:
        """Pack the labels of all examples, as text [n]; 256 different ones at most (``harness.slices.MOST``)."""
        known, index = np.unique(given, return_inverse=True)
        packed = base64.b64encode(zlib.compress(index.astype("u1").tobytes())).decode()
        return cls(name=name, labels=tuple(map(str, known)), packed=packed)

    def names(self) -> list[str]:
        """Return the name of every slice."""
        return [f"{self.name}={label}" for label in self.labels]

    def members(self) -> Iterator[tuple[str, Array]]:
        """Yield the name of every slice, and which examples are in it [n]."""
        index = np.frombuffer(zlib.decompress(base64.b64decode(self.packed)), "u1")
        return ((name, index == code) for code, name in enumerate(self.names()))


class Leakage(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Calibration examples that are in the evaluation data: byte for byte, or nearly.

    ``sha256``: of the calibration data. ``unread``: why these could not be read; then nothing else is known.
    """

    sha256: str = ""
    exact: int = 0
    near: int = 0
    unread: str = ""


class DataSeen(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The evaluation data: ``sizes`` has the least and the largest size of every dynamic dimension in it.

    ``leakage`` null: the recipe has no calibration data.
    """

    name: str
    sha256: str
    examples: int
    sizes: Mapping[str, tuple[int, int]]
    slicings: tuple[Slicing, ...] = ()
    leakage: Leakage | None = None


class Observation(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One artifact, measured. ``reference``: the variant that ratios are against.

    ``versions`` are those here, ``compiled_with`` the compiler's.
    ``again``: log of the reference's latency against a second session of itself, one a sitting;
    ``again_throughput``: the same of examples per second, where that is the objective.
    ``drawn``: SHA-256 of the seeded inputs that took the place of data; empty where there were data.
    ``away``: share of the time in which the system ran something else on a CPU that was needed; null where unknown.
    ``stated``: what the manifest says of the reference: its accuracy, and its latency as a ratio to stock ONNX Runtime.
    """

    model: str
    seed: int
    objective: str
    concurrency: int
    dims: Mapping[str, int]
    source: SourceRecord
    target: TargetRecord
    compiled_on: TargetRecord
    measured_on: TargetRecord
    versions: Mapping[str, str]
    compiled_with: Mapping[str, str]
    interface: Interfaces
    calibration: str | None
    data: DataSeen | None
    reference: str
    reference_ms: float
    again: tuple[float, ...]
    away: float | None
    stated: Estimate | None
    stated_data: str | None
    stock_ratio: float | None
    fusions: tuple[ExpectationRecord, ...]
    variants: tuple[VariantSeen, ...]
    again_throughput: tuple[float, ...] = ()
    drawn: str = ""

    def variant(self, precision: str) -> VariantSeen | None:
        """Return one variant, None where there is none."""
        return next((v for v in self.variants if v.precision == precision), None)

    def on_data_of(self, other: Self) -> bool:
        """Whether both were measured on the same data, byte for byte; without data, on the same seeded inputs."""
        own, theirs = (o.data.sha256 if o.data is not None else o.drawn for o in (self, other))
        return own != "" and own == theirs

    def on_machine_of(self, other: Self) -> bool:
        """Whether both were measured with the same instruction set, threads and runtime, which decide the kernels."""
        own, theirs = (
            (msgspec.structs.replace(o.measured_on, cpu="", cores=0, system=""), o.versions.get("onnxruntime"))
            for o in (self, other)
        )
        return own == theirs

    @property
    def where(self) -> str:
        """What it was measured with: ``onnxruntime 1.32.0 with avx2+fma, threads 1``."""
        machine = self.measured_on
        return f"{machine.runtime} with {'+'.join(machine.isa) or machine.arch}, threads {machine.threads}"

    def only(self, precisions: Collection[str] | None) -> Self:
        """Return it with these variants and the reference alone; None: as it is."""
        if precisions is None:
            return self
        kept = tuple(v for v in self.variants if v.precision in (self.reference, *precisions))
        return msgspec.structs.replace(self, variants=kept)
