"""dlc bench ARTIFACT|MODEL..."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dlc.cli.common import Format, common, print_json, print_table, progress
from dlc.manifest import Latency
from dlc.report.numbers import ABSENT

if TYPE_CHECKING:
    from dlc.memory_bench import MemoryRow


@click.command(short_help="Time models interleaved, side by side: medians, percentiles, ratios with intervals.")
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--dim", "dims", multiple=True, metavar="NAME=SIZE", help="Size of a dynamic dimension; may be repeated.")
@click.option("--rounds", type=click.IntRange(10), default=200, show_default=True, help="Runs of each model.")
@click.option("--threads", type=click.IntRange(1), help="Threads of one operator. Default: as in session.json, else 1.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of inputs and order.")
@click.option("--memory", is_flag=True, help="Compare the memory of runs too: stock, its best options, and dlc's plan.")
@common
def command(
    models: tuple[Path, ...], dims: tuple[str, ...], rounds: int, threads: int | None, seed: int, memory: bool,
    form: Format, verbose: int,
) -> int:  # fmt: skip
    """Time MODELS: artifacts (every variant of each), variant folders, or .onnx files. Ratios are against the first.

    \b
        dlc bench build/digits-cnn --dim batch=8
        dlc bench before.onnx after.onnx
        dlc bench model.onnx --memory
    """
    from dlc.bench import bench, parse_dims

    if memory:
        return _memory(models, parse_dims(dims), rounds, threads, seed, form)
    with progress() as bar:
        rows = bench(models, parse_dims(dims), rounds=rounds, threads=threads, seed=seed, progress=bar)
    if form == "json":
        print_json(rows)
        return 0
    headers = ("model", "median", "p10", "p90", "p99", "runs", "ratio to the first")
    print_table(headers, [(r.name, *_cells(r.latency)) for r in rows])
    return 0


def _memory(
    models: tuple[Path, ...], dims: dict[str, int], rounds: int, threads: int | None, seed: int, form: Format
) -> int:
    from dlc.memory_bench import bench_memory

    with progress() as bar:
        rows = bench_memory(models, dims, rounds=rounds, threads=threads, seed=seed, progress=bar)
    if form == "json":
        print_json(rows)
        return 0
    headers = ("model", "way", "memory of a run", "planned", "misses", "outputs", "median", "ratio to stock", "note")
    print_table(headers, [_memory_cells(r) for r in rows])
    return 0


def _memory_cells(row: MemoryRow) -> tuple[str, ...]:
    planned = "" if row.planned is None else f"{row.planned / 1e6:.3f} MB"
    misses = "" if row.misses is None else str(row.misses)
    median, *_, ratio = _cells(row.latency)
    exact = "same bits" if row.exact else "differ"
    return row.model, row.way, f"{row.growth / 1e6:.3f} MB", planned, misses, exact, median, ratio, row.note


def _cells(latency: Latency) -> tuple[str, ...]:
    found = (latency.median_ms, latency.p10_ms, latency.p90_ms, latency.p99_ms)
    times = (ABSENT if t is None else f"{t:.3f} ms" for t in found)
    ratio = latency.ratio
    return (*times, str(latency.runs), f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]")
