"""dlc plan MODEL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dlc.cli.common import Format, common, print_json, print_table

if TYPE_CHECKING:
    from dlc.memory_account import Account, Bucket, Planned

PEAK_NAMED = 8
"""Tensors of the peak step that are named, the largest; -v names all."""


@click.command(short_help="Plan a model's memory: peak, lower bounds, gap, and where every byte goes.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--dim",
    "dims",
    multiple=True,
    metavar="NAME=SIZE[,SIZE…]",
    help="Size of a dynamic dimension; several: a plan each.",
)
@click.option("-r", "--recipe", "recipe_file", metavar="RECIPE", help="Recipe (.py, .toml, zoo name) that bounds dims.")
@click.option("--budget", metavar="BYTES", help="Exit 1 if the model needs more than this, 64MiB or so.")
@click.option("--context", type=click.IntRange(1), help="Tokens for which the KV cache is counted. Default: 1.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Sequences in the KV cache.")
@click.option("--no-measure", is_flag=True, help="Do not run the planned model in a process of its own.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Write planned.onnx, session.json, memory.json, memory.h."
)
@click.option("--overwrite", is_flag=True, help="Replace a folder of planned files.")
@common
def command(
    model: Path, dims: tuple[str, ...], recipe_file: str | None, budget: str | None, context: int | None, batch: int,
    no_measure: bool, out: Path | None, overwrite: bool, form: Format, verbose: int,
) -> int:  # fmt: skip
    """Plan the memory of MODEL, an .onnx file or the folder of a variant.

    \b
        dlc plan build/digits-cnn/fp32 --dim batch=8
        dlc plan model.onnx --dim batch=1,8,64 --budget 64MiB -o planned
    """
    from dlc.compared_models import parse_bytes
    from dlc.memory_account import Subject, account, parse_choices
    from dlc.planned_files import write
    from dlc.sources.recipe_files import declared

    limit = parse_bytes(budget) if budget else None
    recipe = declared(recipe_file, model) if recipe_file else None
    found = account(
        Subject.of(model), parse_choices(dims), recipe=recipe, budget=limit, context=context, batch=batch,
        measure=not no_measure,
    )  # fmt: skip
    if out is not None:
        write(out, found.prepared, overwrite=overwrite)
    if form == "json":
        print_json(found.summary())
    else:
        _print(found, verbose)
        if out is not None:
            click.echo(f"written: {out}/planned.onnx, session.json, memory.json, memory.h")
    needed = found.account.needed
    if limit is not None and needed > limit:
        click.echo(f"over budget: the model needs {needed:,} bytes, {needed - limit:,} more than {limit:,}", err=True)
        return 1
    return 0


def _print(found: Planned, verbose: int) -> None:
    headers = (
        "sizes",
        "planned peak",
        "lower bound: this order",
        "every order",
        "gap",
        "proved",
        "given order",
        "options tier",
        "reserved",
    )
    print_table(headers, [_bucket(b) for b in found.buckets])
    last = found.buckets[-1]
    click.echo(f"offsets: {last.solver}")
    shown = found.peak if verbose else found.peak[:PEAK_NAMED]
    click.echo(f"peak at step {found.peak_step}, node {found.peak_node}:")
    for each in shown:
        click.echo(f"    {each.size:>14,}  {each.name}, steps {each.first} to {each.last - 1}")
    if len(found.peak) > len(shown):
        click.echo(f"    and {len(found.peak) - len(shown)} more; -v names them")
    by_options = "" if found.account.measured is None else ", measured by session options alone"
    print_table(
        ("bytes", ""), _lines(found.account, last.scratch), title=f"memory of a process that runs it{by_options}"
    )
    click.echo("\n".join(_cache(found)))


def _bucket(bucket: Bucket) -> tuple[str, ...]:
    sizes = ", ".join(f"{name}={size}" for name, size in bucket.sizes.items()) or "fixed"
    every = "unknown" if bucket.every_order is None else f"{bucket.every_order:,}"
    gap = bucket.planned / bucket.bound - 1 if bucket.bound else 0.0
    proved = "optimal" if bucket.proved else "no"
    given = "" if bucket.given is None else f"{bucket.given:,}"
    return (
        sizes,
        f"{bucket.planned:,}",
        f"{bucket.bound:,}",
        every,
        f"{gap:.1%}",
        proved,
        given,
        "" if bucket.options is None else f"{bucket.options:,}",
        f"{bucket.reserved:.2f}x",
    )


def _lines(account: Account, scratch: int) -> Iterator[tuple[str, str]]:
    yield f"{account.private:,}", "weights, private: in the file itself, copied by each process"
    yield f"{account.mapped:,}", "weights, mapped: in external data"
    yield (
        f"{account.activations:,}",
        f"activations: the planned arena; the largest scratch of a kernel in it: {scratch:,}",
    )
    yield f"{account.outputs:,}", "outputs, which the caller is handed"
    if account.measured is None:
        return
    yield f"{account.runtime:,}", "runtime baseline: Python, numpy, ONNX Runtime and the inputs"
    yield f"{account.unaccounted:,}", "unaccounted: measured minus the lines above"
    yield f"{account.measured:,}", "measured peak"


def _cache(found: Planned) -> Iterator[str]:
    cache = found.cache
    if cache is None:
        yield "KV cache: none in this graph"
        return
    yield (
        f"KV cache: {cache.layers} layers, {cache.heads} heads of {cache.head_size}, {cache.dtype}: "
        f"{cache.token_bytes:,} bytes per token"
    )
    where = f"context {cache.context}, batch {cache.batch}"
    yield f"    {cache.two_buffers:,} bytes at {where}, past and present in buffers of their own"
    able = "" if cache.can_share else "; its operators cannot: GroupQueryAttention can"
    yield f"    {cache.one_buffer:,} bytes if they share one: {cache.saving:,} saved{able}"
