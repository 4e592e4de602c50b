"""dlc debug bisect, dlc debug reduce."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dlc.cli.common import Format, ListsRewrites, command_line, common, print_json, print_table, progress

if TYPE_CHECKING:
    from dlc.bisection import Bisection, Culprit
    from dlc.divergence import Difference, Peak
    from dlc.reducer import Reduced

BUG, INCONCLUSIVE = 4, 5
ROWS = 20


@click.group(short_help="Find the pass, the site and the value where numbers change; reduce a model that fails.")
def command() -> None:
    """Look into passes that go wrong, and into models that fail."""


@command.command(cls=ListsRewrites)
@click.argument("model")
@click.option(
    "-r", "--recipe", "recipe_file", type=click.Path(path_type=Path), help="TOML file that declares the rest."
)
@click.option("--pass", "passes", multiple=True, metavar="NAME",
              help="Apply this pass only, after canonicalize; may be repeated. A rewrite, or package.module:attribute "
              "for a pass of your own. Default: all of the FP32 graph, and every form of each.")  # fmt: skip
@click.option("--variant", default="fp32", show_default=True, help="Only fp32 is meant to keep its numbers.")
@click.option("--dim", "dims", multiple=True, metavar="NAME=SIZE", help="Size of a dynamic dimension; may be repeated.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the inputs.")
@common
def bisect(
    model: str, recipe_file: Path | None, passes: tuple[str, ...], variant: str, dims: tuple[str, ...], seed: int,
    form: Format, verbose: int,
) -> int:  # fmt: skip
    """Apply the FP32 passes to MODEL one at a time, and name the first that changes its numbers, with site and value.

    MODEL: what dlc compile takes, or an artifact, whose FP32 graph is taken as it is. Exit code 0 if nothing differs,
    4 if a pass is at fault.

    \b
        dlc debug bisect model.onnx
        dlc debug bisect minilm --pass attention --dim sequence=128
        dlc debug bisect model.onnx --pass my_module:MyPass
    """
    from dlc import debug, target
    from dlc.bench import parse_dims
    from dlc.bisection import by_design
    from dlc.sources.artifacts import recipe_of

    if variant != "fp32":
        raise by_design(variant)
    here, sizes = target.detect(), parse_dims(dims)
    with progress() as bar:
        found = debug.bisect_recipe(
            recipe_of(model, recipe_file), here, passes=passes, dims=sizes, seed=seed, progress=bar
        )
    culprit, way_out = found.culprit, ""
    if culprit is not None:
        way_out = debug.way_out(culprit, found.feeds[0], here, command_line("compile", model, recipe_file))
    if form == "json":
        print_json({"seed": seed, "bisection": found, "way_out": way_out})
    elif culprit is None:
        _print_steps(found)
        click.echo(f"compared at {_feeds(found.feeds)}; seed {seed}")
        worst = max(found.steps, key=lambda s: s.apart / s.bound)
        click.echo(
            f"nothing differs: {len({s.name for s in found.steps})} passes, {sum(s.sites for s in found.steps)} sites; "
            f"at most {worst.apart:.2g} of the largest output ({worst.name}), bound {worst.bound:.2g}"
        )
    else:
        if verbose:
            _print_steps(found)
        _print_culprit(culprit, seed)
        if way_out:
            click.echo(way_out)
    return 0 if culprit is None else BUG


def _print_steps(found: Bisection) -> None:
    names = [s.name for s in found.steps if s.modified]
    rows = [
        (
            f"{s.name} ({s.options})" if names.count(s.name) > 1 else s.name, f"{s.sites}", f"{s.apart:.2g}",
            f"{s.bound:.2g}",
        )
        for s in found.steps if s.modified
    ]  # fmt: skip
    print_table(("pass", "sites", "largest distance", "bound"), rows)
    if idle := dict.fromkeys(s.name for s in found.steps if s.name not in names):
        click.echo(f"changed nothing: {', '.join(idle)}")


def _print_culprit(culprit: Culprit, seed: int) -> None:
    click.echo(f"pass {culprit.name} {culprit.kind}: {culprit.problem}")
    click.echo(f"  differs at {_feeds(culprit.differs_at)}; holds at {_feeds(culprit.holds_at) or 'none'}; seed {seed}")
    if culprit.options:
        click.echo(f"  options: {culprit.options}")
    if len(culprit.sites) > 1:
        click.echo(f"it takes {len(culprit.sites)} of {culprit.of} sites together:")
    for site in culprit.sites:
        click.echo(f"site {site.node} ({site.op}){'' if len(culprit.sites) > 1 else f', one of {culprit.of}'}")
        if site.before or site.after:
            click.echo(f"  {', '.join(site.before) or 'nothing'} -> {', '.join(site.after) or 'nothing'}")
    if (first := culprit.divergence.first) is not None:
        _print_difference("first value that differs", first)
    if (nan := culprit.divergence.nan) is not None and nan != first:
        _print_difference("NaN begins in", nan)


def _print_difference(what: str, found: Difference) -> None:
    share = "" if math.isinf(found.apart) else f", by {found.apart:.3g} of its largest magnitude"
    click.echo(f"{what}: {found.value!r}, computed by {found.node} ({found.op}){share}")
    for name, side in (("expected", found.expected), ("got", found.got)):
        click.echo(f"  {name} {_side(side, found.at)}")


def _side(side: Peak, at: tuple[int, ...] | None) -> str:
    there = "" if side.there is None or at is None else f", {side.there:.6g} at [{','.join(map(str, at))}]"
    nans = f", {side.nans} NaN" if side.nans else ""
    return f"{side.type}: largest magnitude {side.largest:.6g}{nans}{there}"


def _feeds(names: tuple[str, ...]) -> str:
    return "; ".join(names)


@command.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--fails", required=True, metavar="WHAT",
              help="crashes, nan, differs, or a shell command with {model}, and {inputs} if it takes them, that exits "
              "with 0 while the model fails.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("reduced.onnx"), show_default=True)
@click.option("-r", "--recipe", "recipe_file", metavar="RECIPE", help="Recipe (.py, .toml, zoo name) for the inputs.")
@click.option("--dim", "dims", multiple=True, metavar="NAME=SIZE", help="Size of a dynamic dimension; may be repeated.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the inputs.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=300.0, show_default=True, metavar="SECONDS",
              help="A command that takes longer has not failed.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace the output.")
@common
def reduce(
    model: Path, fails: str, output: Path, recipe_file: str | None, dims: tuple[str, ...], seed: int, timeout: float,
    overwrite: bool, form: Format, verbose: int,
) -> int:  # fmt: skip
    """Write the smallest part of MODEL that still fails, and the inputs on which it does.

    Started again after an interruption, it goes on where it stopped. Exit code 0 if the part fails when it is run once
    more, 5 if it does not.

    \b
        dlc debug reduce model.onnx --fails nan
        dlc debug reduce model.onnx --fails "! ./accepts {model}" -o small.onnx
    """
    from dlc.bench import parse_dims
    from dlc.compared_models import inputs_for, subject
    from dlc.errors import UserError
    from dlc.predicates import predicate
    from dlc.reducer import reduce as reduce_model

    asked, whole = predicate(fails, timeout), subject(model)
    if not overwrite and (there := [p for p in (output, output.with_suffix(".npz")) if p.exists()]):
        raise UserError(f"{there[0]} exists; write elsewhere with --output, or --overwrite it")
    [feeds], inputs = inputs_for(whole, recipe_file, parse_dims(dims), 1, seed)
    with progress() as bar:
        found = reduce_model(whole.model, asked, feeds, output, f"{fails} {timeout}", bar)
    if form == "json":
        print_json({"inputs": inputs, "reduced": found})
    else:
        _print_reduced(found, inputs, verbose=bool(verbose))
    return 0 if found.steady else INCONCLUSIVE


def _print_reduced(found: Reduced, inputs: str, *, verbose: bool) -> None:
    known = f", {found.known} answers known from before" if found.known else ""
    click.echo(f"{found.of} nodes reduced to {len(found.nodes)}, by {found.tried} trials on {inputs}{known}")
    shown = list(zip(found.nodes, found.ops, strict=True))
    print_table(("node", "operator"), shown if verbose else shown[:ROWS])
    click.echo(f"symptom: {found.symptom}; written to {found.model}, inputs to {found.inputs}")
    if not found.steady:
        click.echo("it did not fail when it was run once more: what it fails on changes from run to run")
