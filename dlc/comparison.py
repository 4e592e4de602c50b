"""Two models side by side: their outputs as they run, then every value and weight that both have.

Values are compared in the graphs as they are written, with ONNX Runtime's own optimisations off: what a quantized node
computes then is its simulation, in float. One session lives at a time, and no more tensors than ``max_ram`` allows.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir

from dlc.apart import Apart, Meter
from dlc.errors import ModelError, UserError
from dlc.inner import HELD, chunks, computed, tensor_bytes
from dlc.interface import Interface, sizes_of
from dlc.lookup import load
from dlc.matching import Stored, stored, twin, unpacked
from dlc.passes.base import all_nodes
from dlc.passes.weighted import label
from dlc.progress import Progress, Silent, track
from dlc.runtimes import RUNTIMES
from dlc.runtimes.ort import OrtRunner
from dlc.runtimes.probe import Probe
from dlc.runtimes.session import SessionConfig
from dlc.sources import onnx_files
from dlc.types import Array, Bytes, Feeds, Outputs
from dlc.versions import TABLE

SILENT = Silent()
EXACT_DB, HALF_DB, QUANTIZED_DB = 80.0, 30.0, 20.0
"""Below these, a value has diverged. FP32 in another order of sums: a sum of 10^4 terms errs by sqrt(10^4)·eps/2 of its
value, 104 dB, and a hundred layers of such noise by 84 dB. Halves: one rounding to BF16 leaves 58 dB, a hundred 38.
Quantized: one part in ten of the signal is noise."""
HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
INTEGERS = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4)

Kind = Literal["output", "activation", "weight"]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model file, and the session options it is run with; ``mapped``: a copy of it whose weights sessions map."""

    name: str
    model: Path
    config: SessionConfig
    mapped: Path | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """One tensor of both models: ``value`` in the reference, computed or read by ``node``; ``got`` in the candidate.

    ``step``: index of the node in the reference's execution order. ``argmax``: share of equal choices of an output that
    scores classes, [n, classes].
    """

    kind: Kind
    value: str
    got: str
    node: str
    op: str
    step: int
    apart: Apart
    argmax: float | None = None


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A value or weight of the reference that was not compared, and why."""

    kind: Kind
    value: str
    node: str
    op: str
    reason: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """``layers``: activations in execution order, then weights. ``first``: the first activation below the threshold."""

    reference: str
    candidate: str
    inputs: str
    threshold_db: float
    outputs: tuple[Layer, ...]
    layers: tuple[Layer, ...] = ()
    unmatched: tuple[Unmatched, ...] = ()
    first: Layer | None = None

    @property
    def differs_in_kind(self) -> bool:
        """Whether an output holds NaN or infinity on one side only."""
        return any(o.apart.odd for o in self.outputs)


def compare(
    reference: Subject, candidate: Subject, feeds: Sequence[Feeds], inputs: str, *, layers: bool = False,
    threshold_db: float | None = None, max_ram: Bytes = HELD, progress: Progress = SILENT,
) -> Comparison:  # fmt: skip
    """Compare on some feeds; ``inputs`` says in words what they are. UserError if the interfaces differ."""
    with ExitStack() as files:
        if not layers:
            one, other = _read(reference.model), _read(candidate.model)
        else:
            expected, got = (files.enter_context(_probe(each.model)) for each in (reference, candidate))
            one, other = expected.model(), got.model()
            reference, candidate = replace(reference, mapped=expected.path), replace(candidate, mapped=got.path)
        if (mine := Interface.of(one)) != (theirs := Interface.of(other)):
            raise UserError(f"the models differ in interface, so they cannot be compared: {mine.diff(theirs)}")
        threshold = threshold_db if threshold_db is not None else expected_db(one, other)
        progress.stage("compare outputs", None)
        outputs = tuple(_outputs(reference, candidate, one, feeds))
        if not layers:
            return Comparison(reference.name, candidate.name, inputs, threshold, outputs)
        found: list[Layer | Unmatched] = [*_activations(one, other, expected, got, feeds, max_ram, progress)]
        found += _weights(one, other, got, feeds[0])
    compared = tuple(each for each in found if isinstance(each, Layer))
    diverged = [each for each in compared if each.kind == "activation" and each.apart.sqnr_db < threshold]
    return Comparison(
        reference.name, candidate.name, inputs, threshold, outputs, compared,
        tuple(each for each in found if isinstance(each, Unmatched)),
        min(diverged, key=lambda each: each.step, default=None),
    )  # fmt: skip


def expected_db(*models: ir.Model) -> float:
    """Return the SQNR below which a value has diverged, by the narrowest type that one of the models computes in."""
    kinds = {kind for m in models for kind in _kinds(m)}
    if not kinds.isdisjoint(INTEGERS):
        return QUANTIZED_DB
    return EXACT_DB if kinds.isdisjoint(HALVES) else HALF_DB


def _kinds(model: ir.Model) -> Iterator[ir.DataType | None]:
    for node in all_nodes(model.graph):
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulNBits"):
            yield ir.DataType.UINT8
        yield from (v.dtype for v in (*node.inputs, *node.outputs) if v is not None)


def _read(path: Path) -> ir.Model:
    return onnx_files.read(path, max(TABLE.values())[0])


def _probe(path: Path) -> Probe:
    """Write down a model with its weights apart; what reading it took is free again."""
    probe = Probe(_read(path))
    gc.collect()
    return probe


def _outputs(reference: Subject, candidate: Subject, model: ir.Model, feeds: Sequence[Feeds]) -> Iterator[Layer]:
    """Run both as they are deployed, one after the other."""
    producers = {v.name: (label(node), node.op_type, i) for i, node in enumerate(model.graph) for v in node.outputs}
    expected = [*_runs(reference, feeds)]
    meters = {name: Meter() for name in expected[0]}
    same, rows = dict.fromkeys(meters, 0), dict.fromkeys(meters, 0)
    for stated, got in zip(expected, _runs(candidate, feeds), strict=True):
        for name, array in stated.items():
            _check_shape(name, array, got[name])
            meters[name].add(array, got[name])
            if array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind == "f":
                same[name] += int((array.argmax(axis=1) == got[name].argmax(axis=1)).sum())
                rows[name] += len(array)
    for name, meter in meters.items():
        argmax = same[name] / rows[name] if rows[name] else None
        yield Layer("output", name, name, *producers.get(name, ("", "", 0)), meter.result(), argmax)


def _check_shape(name: str, stated: Array, got: Array) -> None:
    if stated.shape != got.shape:
        raise UserError(
            f"output {name!r} has shape {list(got.shape)} in the candidate, {list(stated.shape)} in the reference: "
            "these models do not compute the same"
        )


def _runs(subject: Subject, feeds: Sequence[Feeds]) -> Iterator[Outputs]:
    kind: type[OrtRunner] = load(RUNTIMES[subject.config.provider])
    with kind(subject.mapped or subject.model, subject.config, title=str(subject.model)) as runner:
        for each in feeds:  # what a session hands out keeps its arena; copies do not
            yield {name: array.copy() for name, array in runner.run(each).items()}
    gc.collect()


def _activations(
    one: ir.Model, other: ir.Model, expected: Probe, got: Probe, feeds: Sequence[Feeds], max_ram: Bytes,
    progress: Progress,
) -> Iterator[Layer | Unmatched]:  # fmt: skip
    """Compare the values of the reference with their twins, some at a time."""
    there = {*computed(other)}
    nodes = {str(v.name): (label(node), node.op_type, i) for i, node in enumerate(one.graph) for v in node.outputs}
    pairs: dict[str, str] = {}
    for value in (*one.graph.inputs, *(v for node in one.graph for v in node.outputs if v.name in nodes)):
        name = str(value.name)
        if not name or (value.dtype is not None and not value.dtype.is_floating_point()):
            continue
        if (found := twin(name, there)) is not None:
            pairs[name] = found
        elif name in nodes:
            yield Unmatched("activation", name, *nodes[name][:2], "the candidate has no value of that name")
    nbytes = _bytes_of_pairs(one, other, pairs, feeds)
    groups = list(chunks(pairs, nbytes, max_ram))
    progress.stage("compare layers", len(groups))
    for names in track(progress, groups):
        for name, apart in _apart(expected, got, {n: pairs[n] for n in names}, feeds):
            node, op, step = nodes.get(name, ("", "input", -1))
            if isinstance(apart, Apart):
                yield Layer("activation", name, pairs[name], node, op, step, apart)
            else:
                yield Unmatched("activation", name, node, op, apart)
        gc.collect()


def _bytes_of_pairs(
    one: ir.Model, other: ir.Model, pairs: Mapping[str, str], feeds: Sequence[Feeds]
) -> dict[str, Bytes]:
    """Bytes that comparing each pair holds: the reference's on every feed, and the candidate's on one."""
    largest = max(feeds, key=lambda each: sum(a.nbytes for a in each.values()))
    sizes = sizes_of(Interface.of(one), largest)
    mine, theirs = tensor_bytes(one, sizes), tensor_bytes(other, sizes)
    mine = {**mine, **{name: array.nbytes for name, array in largest.items()}}
    return {a: len(feeds) * mine[a] + theirs.get(b, mine[a]) for a, b in pairs.items() if a in mine}


def _apart(
    expected: Probe, got: Probe, pairs: Mapping[str, str], feeds: Sequence[Feeds]
) -> Iterator[tuple[str, Apart | str]]:
    """Compare some pairs; where the runtime does not hand one out, each on its own."""
    try:
        stated = [*expected.fetch([*pairs], feeds)]
        meters: dict[str, Meter | str] = {name: Meter() for name in pairs}
        for each, theirs in zip(stated, got.fetch([*pairs.values()], feeds), strict=True):
            for name, twin_name in pairs.items():
                meters[name] = _added(meters[name], each.pop(name), theirs.pop(twin_name, None))
    except ModelError as error:
        if len(pairs) == 1:
            yield next(iter(pairs)), str(error)
            return
        for name, twin_name in pairs.items():
            yield from _apart(expected, got, {name: twin_name}, feeds)
        return
    yield from ((name, m.result() if isinstance(m, Meter) else m) for name, m in meters.items())


def _added(meter: Meter | str, stated: Array, got: Array | None) -> Meter | str:
    if isinstance(meter, str) or got is None:
        return meter
    if stated.dtype.kind == "O" or stated.shape != got.shape:
        return f"its shape is {list(got.shape)}, not {list(stated.shape)}"
    meter.add(stated, got)
    return meter


def _weights(one: ir.Model, other: ir.Model, got: Probe, feeds: Feeds) -> Iterator[Layer | Unmatched]:
    """Compare each weight as it is dequantized with the reference's; one is in memory at a time."""
    steps = {node: i for i, node in enumerate(one.graph)}
    there, names = stored(other), {*computed(other)}
    for name, mine in stored(one).items():
        where = (label(mine.node), mine.node.op_type)
        found = _counterpart(name, there, names, got, feeds)
        if found is None:
            yield Unmatched("weight", name, *where, "the candidate has no weight of that name")
            continue
        got_name, theirs = found
        fitted = _fitted(mine.read(), theirs)
        if fitted is None:
            reason = f"its shape is {list(theirs.shape)}, not {list(mine.read().shape)}"
            yield Unmatched("weight", name, *where, reason)
            continue
        yield Layer("weight", name, got_name, *where, steps.get(mine.node, -1), fitted)


def _counterpart(
    name: str, there: Mapping[str, Stored], names: set[str], probe: Probe, feeds: Feeds
) -> tuple[str, Array] | None:
    if (chain := unpacked(name, names)) is not None and not (name in there and there[name].name == name):
        [got] = probe.fetch([chain], [feeds])
        return chain, got[chain]
    return (there[name].name, there[name].read()) if name in there else None


def _fitted(stated: Array, got: Array) -> Apart | None:
    """Compare as it is stored: as it was, transposed, or with zero channels behind; None if it is none of these."""
    forms = [got, got.T] if got.ndim == 2 else [got]
    if got.ndim == stated.ndim and got.shape != stated.shape:
        extents = tuple(slice(0, size) for size in stated.shape)
        if all(g >= s for g, s in zip(got.shape, stated.shape, strict=True)) and not _outside(got, extents).any():
            forms = [got[extents]]
    found = []
    for form in forms:
        if form.shape == stated.shape:
            meter = Meter()
            meter.add(stated, form)
            found.append(meter.result())
    return max(found, key=lambda apart: apart.sqnr_db, default=None)


def _outside(array: Array, extents: tuple[slice, ...]) -> Array:
    mask = np.ones(array.shape, bool)
    mask[extents] = False
    return array[mask]
