"""How much a run of each variant computes and moves, and its costliest kernels: what the report's roofline shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir
from msgspec.structs import replace

from dlc.artifact import MODEL
from dlc.errors import DlcError
from dlc.manifest import KernelRecord, Manifest, Peaks, Work
from dlc.runtimes.loaded import Kernel, Loaded, load_as_run
from dlc.runtimes.tensor_types import BITS, Types, byte_size, ort_type
from dlc.stages.evidence import Subject
from dlc.types import Bytes, Feeds
from dlc.work import is_integer, macs, traffic

SHOWN = 8
"""Kernels on record of each variant."""
LARGEST: Bytes = 1 << 30
"""Weights of the largest model that is profiled: the runtime writes its graph down as one file of at most 2 GB."""


def work_of(subjects: Sequence[Subject], feeds: Feeds) -> dict[str, Work]:
    """Profile the files as they ship, on the CPU; one that is too large, or cannot be profiled, is left out."""
    found: dict[str, Work] = {}
    for subject in subjects:
        if subject.config.provider == "cpu" and sum(f.stat().st_size for f in subject.files) <= LARGEST:
            try:
                model = _named(subject.folder / MODEL)
                found[subject.name] = counted(load_as_run(model, feeds, subject.config), feeds)
            except DlcError:  # no verdict hangs on it
                continue
    return found


def _named(path: Path) -> ir.Model | Path:
    """Give every node a name, by which the profile can be read; a file that has them all is taken as it is."""
    try:
        model = ir.load(path)
    except Exception:  # noqa: BLE001 - the runtime says better what is wrong with it
        return path
    nameless = [node for node in model.graph if not node.name]
    taken = {node.name for node in model.graph}
    for index, node in enumerate(nameless):
        node.name = next(n for k in range(len(taken) + 1) if (n := f"/{node.op_type}_{index + k}") not in taken)
        taken.add(node.name)
    return model if nameless else path


def counted(loaded: Loaded, feeds: Feeds) -> Work:
    """Count the work of a graph that was run, at the shapes that it ran with."""
    nodes = {str(node.name): node for node in loaded.graph.graph}
    kernels = [(nodes.get(kernel.node), kernel) for kernel in loaded.kernels]
    types = _types(loaded, [(n, k) for n, k in kernels if n is not None], feeds)
    records = [_record(node, kernel, types) for node, kernel in kernels]
    longest = sorted(records, key=lambda r: -r.microseconds)[:SHOWN]
    return Work(
        float_ops=sum(r.ops or 0 for r in records if not r.integer),
        integer_ops=sum(r.ops or 0 for r in records if r.integer),
        bytes=sum(r.bytes or 0 for r in records),
        uncounted=tuple(sorted({r.op for r in records if r.ops is None or r.bytes is None})),
        kernels=tuple(longest),
    )


def with_work(manifest: Manifest, baseline: str, found: Mapping[str, Work], peaks: Peaks | None) -> Manifest:
    """Return the manifest with the work of the reference and the variants, and what the machine can do."""
    variants = tuple(replace(v, work=found.get(v.precision)) for v in manifest.variants)
    reference = replace(manifest.reference, work=found.get(baseline))
    return replace(manifest, variants=variants, reference=reference, peaks=peaks if found else None)


def _types(loaded: Loaded, kernels: Sequence[tuple[ir.Node, Kernel]], feeds: Feeds) -> Types:
    """Type and shape of everything that is fed, constant, or written by a node that ran."""
    known = {name: ort_type(array) for name, array in feeds.items()}
    for value in loaded.graph.graph.initializers.values():
        if (tensor := value.const_value) is not None:
            kind = tensor.dtype.name.lower()
            known[str(value.name)] = ("float" if kind == "float32" else kind, tuple(tensor.shape.numpy()))
    for node, kernel in kernels:
        named = [str(v.name) for v in node.outputs if v.name]
        known.update(zip(named, kernel.outputs, strict=False))
    return known


def _record(node: ir.Node | None, kernel: Kernel, types: Types) -> KernelRecord:
    ops, moved = None, None
    if node is not None:
        count = macs(node, {name: shape for name, (_, shape) in types.items()})
        ops = None if count is None else 2 * count
        moved = traffic(node, lambda value: _size(types.get(str(value.name))))
    return KernelRecord(
        node=kernel.node, op=kernel.op, microseconds=kernel.microseconds, ops=ops, bytes=moved,
        integer=node is not None and is_integer(node),
    )  # fmt: skip


def _size(found: tuple[str, tuple[int, ...]] | None) -> Bytes | None:
    return byte_size(*found) if found is not None and found[0] in BITS else None
