"""dlc compile SOURCE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from dlc.calibration import CHOICES, Choice
from dlc.cli.common import Format, command_line, common, print_json, print_table, progress
from dlc.cli.mixing import mixing as mixing_options

if TYPE_CHECKING:
    from dlc.artifact import Artifact
    from dlc.errors import DlcError
    from dlc.manifest import Budget, Manifest
    from dlc.recipe import Recipe

LEGEND = (
    "[low, high]: 95 % intervals. Latency and size are against the exported FP32 graph on stock ONNX Runtime, in the\n"
    "same run. Agreement: the same class as FP32, or the cosine of outputs. Peak memory: a process that runs only this."
)


@click.command(short_help="Export, rewrite, quantize, measure and judge a model; write its artifact.")
@click.argument("source")
@click.option(
    "-r", "--recipe", "recipe_file", type=click.Path(path_type=Path), help="TOML file that declares the rest."
)
@click.option("--variants", help="Comma-separated: fp32,fp16,bf16,int8,int4,mixed. Default: what the recipe names.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("build"), show_default=True,
              help="Folder that receives the artifact, under the model's name.")  # fmt: skip
@click.option(
    "-t", "--target", "target_file", type=click.Path(path_type=Path), help="Target file. Default: this machine."
)
@click.option("--provider", type=click.Choice(["cpu", "cuda"]), help="Default: cpu.")
@click.option("--threads", type=click.IntRange(1), help="Threads of one operator. Default: 1.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of inputs and resampling.")
@click.option("--no-evaluate", is_flag=True, help="Skip the task metric; judge by agreement on calibration data.")
@click.option("--check-each-pass", is_flag=True, help="Compare the model's numbers before and after every pass.")
@click.option("--calibration-method", type=click.Choice(CHOICES), help="How int8 ranges are chosen. Default: mse.")
@click.option("--max-ram", help="Most that calibration may hold of a model's activations. Default: 1GiB.")
@click.option("--exclude", metavar="PATTERN", multiple=True,
              help="Nodes that stay in FP32, by name or operator type: 'Gather', '/head/*'. Repeatable.")  # fmt: skip
@click.option("--memory-budget", metavar="BYTES", help="Most that a model may add to a process, 64MiB or so.")
@click.option("--overwrite", is_flag=True, help="Replace an artifact that exists.")
@mixing_options
@common
def command(
    source: str, recipe_file: Path | None, variants: str | None, out: Path, target_file: Path | None,
    provider: str | None, threads: int | None, seed: int, no_evaluate: bool, check_each_pass: bool, overwrite: bool,
    calibration_method: Choice | None, max_ram: str | None, exclude: tuple[str, ...], memory_budget: str | None,
    mixing: Mapping[str, Any], form: Format, verbose: int,
) -> int:  # fmt: skip
    """Compile SOURCE: a zoo name, recipe.py, recipe.toml, model.onnx, model.pt2 or package.module:factory.

    \b
        dlc compile digits-cnn
        dlc compile model.onnx -r recipe.toml --variants fp32,int8 -o build
    """
    from dlc import target as targets
    from dlc.compared_models import parse_bytes
    from dlc.compiler import Options, compile  # noqa: A004 - the verb's name
    from dlc.cost_table import default_cache
    from dlc.harness.judge import overall
    from dlc.recipe import Precision
    from dlc.sources.mixing_options import Stated, from_command_line
    from dlc.sources.recipe_files import load_recipe
    from dlc.target_file import load

    recipe = calibrating(load_recipe(source, recipe_file), calibration_method, max_ram)
    if target_file and (provider or threads):
        raise click.UsageError("the target file states provider and threads: leave out --provider and --threads")
    target, costs = (
        load(target_file)
        if target_file
        else (targets.detect(cast("targets.Provider", provider or "cpu"), threads or 1), None)
    )
    asked_for = recipe.variants if variants is None else tuple(v.strip() for v in variants.split(","))
    recipe = replace(recipe, mixed=from_command_line(Stated(**mixing), recipe.mixed, asked_for))
    recipe = excluding(recipe, exclude, asked_for)
    options = Options(
        variants=cast("tuple[Precision, ...]", asked_for) if variants is not None else None,
        seed=seed, evaluate=not no_evaluate, check_each_pass=check_each_pass, overwrite=overwrite,
        cache=default_cache(), costs=costs, memory_budget=parse_bytes(memory_budget) if memory_budget else None,
    )  # fmt: skip
    find = command_line("debug bisect", source, recipe_file)
    with progress() as bar, _pointing_to(find):
        compiled = compile(recipe, target, out, options, bar)
    record = compiled.artifact.manifest
    if form == "json":
        print_json(record)
    else:
        _print(compiled.artifact, verbose)
    if compiled.bugs:
        _print_bugs(compiled.bugs, find)
        return compiled.bugs[0].exit_code
    asked = variants is not None or recipe_file is not None or Path(source).suffix.lower() not in (".onnx", ".pt2")
    missing = asked and any(v.verdict.status == "not built" for v in record.variants)
    over = record.budget is not None and not record.budget.chosen
    return 1 if missing or over else overall(record.variants)


def _print(artifact: Artifact, verbose: int) -> None:
    from dlc.report.delivery import delivery_rows
    from dlc.report.sites import conversions
    from dlc.report.table import simulation_line, verdict_rows

    record = artifact.manifest
    print_table(*verdict_rows(record), title=_title(record))
    click.echo(LEGEND)
    if verbose:
        print_table(*delivery_rows(record), title="download and start")
    for warning in record.warnings:
        click.echo(f"warning: {warning}")
    for variant in record.variants:
        label = "not built: " if variant.verdict.status == "not built" else ""
        for reason in variant.verdict.reasons:
            if verbose or not reason.startswith("pass: "):
                click.echo(f"{variant.precision}: {label}{reason}")
        if verbose and variant.simulation is not None:
            click.echo(f"{variant.precision}: {simulation_line(variant.simulation)}")
        for line in (*variant.notes, *(conversions(variant.quantized) if verbose and variant.quantized else ())):
            click.echo(f"{variant.precision}: {line}")
    if record.budget is not None:
        print_budget(record.budget)
    click.echo(f"report: {artifact.path / 'report.html'}")


def print_budget(budget: Budget) -> None:
    """Print every way that was tried to meet a memory budget."""
    from dlc.budget import table

    print_table(
        ("variant", "held", "bytes added", "budget", ""),
        table(budget),
        title=f"memory budget {budget.budget_bytes:,} bytes",
    )
    click.echo(f"within the memory budget: {budget.chosen}" if budget.chosen else "nothing fits the memory budget")


def calibrating(recipe: Recipe, method: Choice | None, max_ram: str | None) -> Recipe:
    """Put what the command line says of calibration in the place of what the recipe does, and remember results."""
    from dlc.calibration import byte_size
    from dlc.calibration_cache import default_folder

    given: dict[str, Any] = {"method": method, "max_ram": byte_size(max_ram) if max_ram is not None else None}
    stated = {key: value for key, value in given.items() if value is not None}
    return replace(recipe, calibrate=replace(recipe.calibrate, cache=default_folder(), **stated))


def excluding(recipe: Recipe, patterns: Sequence[str], variants: Sequence[str]) -> Recipe:
    """Add patterns to those of every precision that is built; RecipeError if that is FP32 alone."""
    from msgspec.structs import replace as replaced

    from dlc.errors import RecipeError
    from dlc.quantization import OPTIONS

    if patterns and not {*variants} - {"fp32"}:
        raise RecipeError("--exclude is about variants besides fp32, and none is built: add one to --variants")
    stated = {name: getattr(recipe, name) for name in OPTIONS}
    return replace(recipe, **{n: replaced(o, exclude=(*o.exclude, *patterns)) for n, o in stated.items()})


@contextmanager
def _pointing_to(find: str) -> Iterator[None]:
    """Add the command that finds the site to the error of a pass."""
    from dlc.errors import PassError

    try:
        yield
    except PassError as error:
        if _keeps_numbers(error):
            error.add_note(f"find the site: {find}")
        raise


def _print_bugs(bugs: Sequence[DlcError], find: str) -> None:
    for bug in bugs:
        click.echo(f"error: {bug}", err=True)
    if any(map(_keeps_numbers, bugs)):
        click.echo(f"find the site: {find}", err=True)


def _keeps_numbers(bug: DlcError) -> bool:
    """Whether the pass at fault is one of the FP32 graph; those of the other precisions are not bisected."""
    from dlc.errors import PassError, RuleError
    from dlc.lookup import load
    from dlc.passes import PASSES

    if isinstance(bug, RuleError):
        return True
    return isinstance(bug, PassError) and bug.culprit in PASSES and not load(PASSES[bug.culprit]).changes_numbers


def _title(record: Manifest) -> str:
    threads = record.target.threads
    where = ", ".join(f"{name}={typical}" for name, (_, _, typical) in record.dims.items())
    words = [f"{record.name} on {record.measured_on.runtime}", f"{threads} thread{'s' if threads > 1 else ''}", where]
    return ", ".join(filter(None, words))
