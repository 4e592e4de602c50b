"""dlc inspect MODEL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dlc.cli.common import Format, ListsRewrites, about, common, print_json, print_table

if TYPE_CHECKING:
    from dlc.quantized_speed import Finding

SHOWN = 4
"""Nodes that a finding names; --format json has all."""


@click.command(
    cls=ListsRewrites, short_help="Show a model's operators, weights and shapes, and where rewrites apply and why not."
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--dim", "dims", multiple=True, metavar="NAME=SIZE", help="Size of a dynamic dimension; may be repeated.")
@click.option("--explain", metavar="REWRITE", help="Show every site of one rewrite (attention, batch-norm, …), or all.")
@click.option(
    "-r", "--recipe", "recipe_file", metavar="RECIPE", help="Recipe (.py, .toml, zoo name) whose rewrites join."
)
@click.option("--no-measure", is_flag=True, help="Explain what fits, without timing what is faster here.")
@common
def command(
    model: Path, dims: tuple[str, ...], explain: str | None, recipe_file: str | None, no_measure: bool, form: Format,
    verbose: int,
) -> int:  # fmt: skip
    """Describe the ONNX file MODEL, which is not changed; --explain times the forms of every place on this machine.

    \b
        dlc inspect model.onnx --dim batch=8
        dlc inspect model.onnx --explain all --dim batch=8
        dlc inspect model.onnx -r recipe.py --explain my-rule
    """
    from dlc.bench import parse_dims
    from dlc.cost_table import default_cache
    from dlc.inspection import inspect
    from dlc.sources.recipe_files import declared

    recipe = declared(recipe_file, model) if recipe_file else None
    seen = inspect(model, parse_dims(dims), explain, recipe=recipe, measure=not no_measure, cache=default_cache())
    if form == "json":
        print_json(seen)
        return 0
    if explain:
        sites = [(s.rewrite, s.op, s.node, _ratio(s.ratio), s.reason or "applied") for s in seen.sites]
        print_table(("rewrite", "operator", "node", "latency", "applied, or why not"), sites)
        click.echo(
            f"{len(sites)} sites" if sites else f"no site: nothing in this graph looks like it\n{_about(explain)}"
        )
        return 0
    sizes = ", ".join(f"{name}={size}" for name, size in seen.sizes.items())
    click.echo(
        f"opset {seen.opset}, IR {seen.ir_version}, from {seen.producer or 'an unnamed tool'}; {seen.nodes} nodes"
    )
    click.echo(f"weights: {seen.parameters:,} elements, {seen.weight_bytes:,} bytes")
    for role, tensors in (("input", seen.inputs), ("output", seen.outputs)):
        for tensor in tensors:
            click.echo(f"{role}: {tensor}")
    rows = [(o.op, f"{o.nodes}", _count(o.macs), _count(o.bytes)) for o in seen.operators]
    print_table(("operator", "nodes", "multiply-adds", "bytes moved"), rows, title=f"at {sizes}" if sizes else None)
    if seen.quantization is not None:
        _print_quantization(seen.quantization)
    return 0


def _print_quantization(found: Sequence[Finding]) -> None:
    click.echo(f"quantization: {len(found) or 'no'} finding{'s' if len(found) != 1 else ''}")
    for each in found:
        share = "" if each.share is None else f", {each.share:.0%} of the time"
        names = ", ".join(each.nodes[:SHOWN]) + (
            f" and {len(each.nodes) - SHOWN} more" if len(each.nodes) > SHOWN else ""
        )
        click.echo(f"- {each.what}: {each.op}, {len(each.nodes)} nodes{share}")
        click.echo(f"    {names}")
        click.echo(f"    why: {each.why}")
        click.echo(f"    way out: {each.way_out}")


def _about(asked: str) -> str:
    """Say what the rewrites that were asked for look for."""
    from dlc.lookup import load
    from dlc.passes import PASSES
    from dlc.passes.naming import matching

    names = matching(asked, PASSES)
    return (
        "\n".join(f"{name}: {about(load(PASSES[name]))}" for name in names) or "dlc inspect --help lists the rewrites"
    )


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"
