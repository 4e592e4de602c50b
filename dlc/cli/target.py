"""dlc target profile."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from dlc.cli.common import Format, common, print_json, print_table, progress


@click.group(short_help="Describe a machine for compiling elsewhere, with the costs measured on it.")
def command() -> None:
    """Targets: the machines that artifacts run on."""


@command.command()
@click.argument("sources", nargs=-1)
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write.")
@click.option("--provider", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of one operator.")
@click.option("-r", "--recipe", "recipe_file", metavar="RECIPE",
              help="Recipe whose own rewrites are measured as well, for artifacts: they do not hold them.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of inputs and resampling.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@common
def profile(
    sources: tuple[str, ...], out: Path, provider: str, threads: int, recipe_file: str | None, seed: int,
    overwrite: bool, form: Format, verbose: int,
) -> int:  # fmt: skip
    """Describe this machine, and measure on it what decides how SOURCES are rewritten.

    SOURCES: artifacts, ONNX files, or whatever dlc compile takes. Without any, this machine's peaks, and the
    costs that are known here already.

    \b
        dlc target profile -o board.json                  on the device
        dlc compile minilm -t board.json                  on the build machine: nothing is rewritten unmeasured
        dlc target profile build/minilm -o board.json     on the device: what its places cost there
        dlc compile minilm -t board.json --overwrite      on the build machine: rewritten for the device
    """
    from dlc import target as targets
    from dlc.cost_table import default_cache
    from dlc.errors import UserError
    from dlc.profile import profile as measure
    from dlc.sources.recipe_files import declared
    from dlc.target_file import save

    if out.exists() and not overwrite:
        raise UserError(f"{out} exists: choose another name, or replace it with --overwrite")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} is no folder: create it first")
    target = targets.detect(cast("targets.Provider", provider), threads)
    own = declared(recipe_file, Path("model.onnx")).rewrites if recipe_file else ()
    with progress() as bar:
        measured = measure(sources, target, own, seed=seed, cache=default_cache(), progress=bar)
    save(out, target, measured.costs)
    if form == "json":
        print_json({"target": target, "costs": len(measured.costs), "measured": measured.added})
    else:
        print_table(("source", "costs that decide it"), [(source, f"{n}") for source, n in measured.added.items()])
        click.echo(f"{out}: {target.fingerprint}, {len(measured.costs)} measured costs")
    for bug in measured.bugs:
        click.echo(f"error: {bug}", err=True)
    return measured.bugs[0].exit_code if measured.bugs else 0
