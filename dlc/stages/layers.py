"""Where a quantized variant loses what it loses: its inner values beside those of the fp32 variant, on one input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from msgspec.structs import replace

from dlc import comparison
from dlc.artifact import MODEL
from dlc.errors import UserError
from dlc.manifest import LayerRecord, Manifest, VariantRecord
from dlc.passes.base import weight_bytes
from dlc.stages.evidence import Subject
from dlc.stages.variants import Build
from dlc.types import Bytes, Feeds

WORST = 60
"""Layers on record, the worst of each variant."""
LARGEST: Bytes = 1 << 28
"""Weights of the largest model that is compared: both are written down once more. ``dlc compare`` has no such limit."""


Layers: TypeAlias = "tuple[LayerRecord, ...] | str"
"""The worst layers of a variant, or why they are not known."""


def by_closeness(subjects: Sequence[Subject], builds: Sequence[Build], feeds: Feeds) -> dict[str, Layers]:
    """Return the worst layers of every quantized variant; nothing where there is no fp32 variant to compare with."""
    of = {s.name: s for s in subjects}
    if "fp32" not in of:
        return {}
    quantized = [b for b in builds if b.model is not None and b.quantized and weight_bytes(b.model) <= LARGEST]
    return {b.precision: _worst(of["fp32"], of[b.precision], feeds) for b in quantized}


def with_layers(manifest: Manifest, layers: Mapping[str, Layers]) -> Manifest:
    """Return the manifest with the layers of its variants, by their names; a note where there is a reason for none."""

    def record(variant: VariantRecord, found: Layers) -> VariantRecord:
        if isinstance(found, str):
            return replace(variant, notes=(*variant.notes, f"layers were not compared with fp32: {found}"))
        return replace(variant, layers=found)

    variants = tuple(record(v, layers.get(v.precision, ())) for v in manifest.variants)
    return replace(manifest, variants=variants)


def _worst(reference: Subject, candidate: Subject, feeds: Feeds) -> Layers:
    one, other = (comparison.Subject(s.name, s.folder / MODEL, s.config) for s in (reference, candidate))
    try:
        found = comparison.compare(one, other, [feeds], "the measured input", layers=True)
    except UserError as error:  # a verdict does not hang on this
        return str(error)
    inner = [layer for layer in found.layers if layer.kind == "activation" and layer.step >= 0]
    worst = sorted(inner, key=lambda layer: layer.apart.sqnr_db)[:WORST]
    return tuple(LayerRecord(value=x.value, node=x.node, op=x.op, sqnr_db=x.apart.sqnr_db) for x in worst)
