"""One self-contained HTML page: works offline, runs no script, asks the network for nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dlc import manifest as record
from dlc.manifest import Lifetime, Manifest, Memory
from dlc.recipe import INSTEAD
from dlc.report import numbers, table
from dlc.report.delivery import delivery_rows
from dlc.report.latency import distributions
from dlc.report.layers import by_sqnr, worst
from dlc.report.lifetimes import plan
from dlc.report.roofline import roofline
from dlc.report.sites import gather, shared
from dlc.report.slices import slice_rows
from dlc.report.svg import DARK, LIGHT, Picture, declared
from dlc.report.tradeoff import tradeoff
from dlc.types import Bytes

LIMIT: Bytes = 2_000_000
"""A page is no larger than this, so that it can be mailed and opens at once."""
DETAIL = ((60, 400), (20, 200), (5, 100), (1, 50))
"""Nodes listed under each reason, and rectangles drawn in each memory plan: the first pair that fits is used."""
SYMBOLS: Mapping[record.Status, str] = {"pass": "✓", "fail": "✕", "inconclusive": "?", "not built": "–"}


def render_html(manifest: Manifest, plans: Mapping[str, Sequence[Lifetime]]) -> str:
    """Render a manifest, and the memory plans by variant; the same input gives the same bytes."""
    page = ""
    for names, rectangles in DETAIL:
        page = _render(manifest, plans, names, rectangles)
        if len(page.encode()) <= LIMIT:
            break
    return page


def _render(manifest: Manifest, plans: Mapping[str, Sequence[Lifetime]], names: int, rectangles: int) -> str:
    template = _environment().get_template("report.html.j2")
    page = template.render(
        m=manifest,
        headline=table.headline(manifest),
        best=table.best(manifest),
        symbols=SYMBOLS,
        light=declared(LIGHT),
        dark=declared(DARK),
        marks=[_mark(i) for i in range(len(manifest.variants))],
        tradeoff=tradeoff(manifest),
        distributions=distributions(manifest),
        delivery=delivery_rows(manifest),
        roofline=roofline(manifest),
        passes=shared({v.precision: v.passes for v in manifest.variants}),
        choices=shared({v.precision: v.choices for v in manifest.variants}),
        gather=lambda sites: gather(sites, names),
        plans=_plans(manifest, plans, rectangles),
        gates=gate_lines(manifest),
        slices=slice_rows(manifest),
        layers={
            v.precision: (by_sqnr(v.layers, i), worst(v.layers)) for i, v in enumerate(manifest.variants) if v.layers
        },
        lines=table.lines,
        noise_line=table.noise_line(manifest.reference),
        simulation_line=table.simulation_line,
    )
    return numbers.legible(page)


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dlc.report", ""), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    helpers: tuple[Callable[..., Any], ...] = (
        numbers.size, numbers.percent, numbers.percents, numbers.ratio, numbers.metric, numbers.milliseconds,
        numbers.decibels, numbers.nats, numbers.cosine, numbers.shorten, table.agreement_cell, table.latency_cell,
        table.metric_cell, table.memory_cell, table.size_cell,
    )  # fmt: skip
    environment.filters |= {f.__name__: f for f in helpers}
    return environment


def gate_lines(manifest: Manifest) -> list[str]:
    """Write the gates as sentences."""
    gates = manifest.gates
    idle = {share for share, drop in INSTEAD.items() if gates.get(drop) is not None}
    if not any(v.slices for v in manifest.variants):
        idle |= {"slice_retention", "slice_drop"}
    texts = {
        "retention": "keep at least {} of FP32's task metric",
        "cosine": "where no metric can be computed: mean cosine similarity to FP32's outputs of at least {}",
        "agreement": "mean cosine similarity to FP32's outputs of at least {}, beside the task metric",
        "max_drop": "task metric at most {} behind FP32's, in its unit",
        "slice_retention": "each slice keeps at least {} of FP32's task metric",
        "slice_drop": "each slice at most {} behind FP32's task metric, in its unit",
        "max_latency_ratio": "latency at most {}× of FP32",
        "max_size_ratio": "size at most {}× of FP32",
    }
    return [
        texts.get(name, f"{name}: {{}}").format(f"{100 * value:g} %" if name in INSTEAD else f"{value:g}")
        for name, value in gates.items()
        if value is not None and name not in idle
    ]


def _mark(series: int) -> Any:
    picture = Picture(18, 18, "")
    picture.root.attrib.pop("aria-label")
    picture.root.attrib["role"] = "presentation"
    picture.root.set("class", "key")
    picture.mark(9, 9, series)
    return picture.markup()


def _plans(
    manifest: Manifest, plans: Mapping[str, Sequence[Lifetime]], rectangles: int
) -> list[tuple[str, Any, Memory | None]]:
    """Draw each distinct plan once, under the names of all variants that have it."""
    memories = {v.precision: v.memory for v in manifest.variants}
    owners: dict[tuple[Lifetime, ...], list[str]] = {}
    for precision, lifetimes in plans.items():
        if lifetimes:
            owners.setdefault(tuple(lifetimes), []).append(precision)
    return [
        (", ".join(names), plan(memories.get(names[0]), lifetimes, rectangles), memories.get(names[0]))
        for lifetimes, names in owners.items()
    ]
