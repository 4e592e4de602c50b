"""The task metric on each slice of the data, variants side by side: what Markdown and HTML show."""

from __future__ import annotations

from dlc.manifest import Manifest, SliceRecord
from dlc.report import numbers


def slice_rows(manifest: Manifest) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headers and one row a slice, its examples and each variant's metric with its interval; no rows: none."""
    variants = [v for v in manifest.variants if v.slices]
    if not variants:
        return (), []
    headers = ("slice", "examples", *(v.precision for v in variants))
    rows = [
        (each[0].name, str(each[0].examples), *(_cell(one) for one in each))
        for each in zip(*(v.slices for v in variants), strict=True)
    ]
    return headers, rows


def _cell(each: SliceRecord) -> str:
    if each.accuracy is None:
        return numbers.ABSENT
    kept = each.accuracy.retention
    value = numbers.metric(each.accuracy.value, each.accuracy.unit)
    return f"{value}; {100 * kept.value:.1f} % of FP32's"
