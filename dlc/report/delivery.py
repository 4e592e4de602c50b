"""What a model costs before it answers at its usual pace: bytes to download, a session, the first call."""

from __future__ import annotations

from collections.abc import Iterator

from dlc.manifest import Manifest, Size, Start
from dlc.report import numbers

HEADERS = ("model", "size", "compressed", "cold start", "first call", "median call")


def delivery_rows(manifest: Manifest) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headers and a row for the FP32 reference and each variant that was built."""
    return HEADERS, [(name, *cells) for name, *cells in _rows(manifest)]


def compressed_cell(size: Size) -> str:
    """Write the bytes that are left once compressed (zlib, level 6), and their share."""
    return f"{numbers.size(size.compressed_bytes)} ({numbers.percent(size.compressed_bytes / max(size.bytes, 1), 0)})"


def _rows(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    reference = manifest.reference
    yield ("FP32 reference", *_cells(reference.size, reference.start, reference.latency.median_ms))
    for variant in manifest.variants:
        if variant.size is not None:
            median = variant.latency.median_ms if variant.latency else None
            yield (variant.precision, *_cells(variant.size, variant.start, median))


def _cells(size: Size, start: Start | None, median_ms: float | None) -> tuple[str, ...]:
    times = (start.load_ms if start else None, start.first_ms if start else None, median_ms)
    return (
        numbers.size(size.bytes), compressed_cell(size),
        *(numbers.ABSENT if t is None else numbers.milliseconds(t) for t in times),
    )  # fmt: skip
