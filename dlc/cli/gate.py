"""dlc gate ARTIFACT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dlc.cli.common import Format, common, print_json, progress

if TYPE_CHECKING:
    from dlc.gate.flow import Outcome


@click.command(short_help="Measure an artifact anew and judge it, by its gates and against a baseline: for CI.")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--baseline", type=click.Path(path_type=Path),
              help="Baseline file, or an earlier artifact, which is then measured in the same run.")  # fmt: skip
@click.option("--update-baseline", is_flag=True, help="Write the baseline instead, unless a gate fails.")
@click.option("-r", "--recipe", "recipe_file", metavar="RECIPE",
              help="Recipe with data, metric and gates. Default: dlc.toml's, else the zoo's of that name.")  # fmt: skip
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False),
              help="Default: dlc.toml, or [tool.dlc] in pyproject.toml, here or above.")  # fmt: skip
@click.option("--variants", help="Comma-separated. Default: all that were built.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="JUnit XML to write.")
@click.option("--summary", type=click.Path(path_type=Path, dir_okay=False), help="Markdown summary to write.")
@click.option("--record", type=click.Path(path_type=Path, dir_okay=False),
              help="History to append to, a JSON line a run; a picture of the trend is drawn beside it.")  # fmt: skip
@click.option(
    "--bisect",
    is_flag=True,
    help="Rebuild a failing artifact with one change since the baseline undone at a time: which is to blame?",
)
@click.option("--dim", "dims", multiple=True, metavar="NAME=SIZE", help="Size at which it is timed; may be repeated.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of inputs and resampling.")
@common
def command(
    artifact: Path, baseline: Path | None, update_baseline: bool, recipe_file: str | None, config: Path | None,
    variants: str | None, junit: Path | None, summary: Path | None, record: Path | None, bisect: bool,
    dims: tuple[str, ...], seed: int, form: Format, verbose: int,
) -> int:  # fmt: skip
    """Measure ARTIFACT, a folder that dlc compile wrote, and judge every variant. Needs no torch.

    Exit code 0 if every gate holds, 1 if one fails, 5 if one is inconclusive.

    \b
        dlc gate build/digits-cnn --baseline baselines/digits-cnn.json --update-baseline
        dlc gate build/digits-cnn --baseline baselines/digits-cnn.json --junit gate.xml --summary gate.md
    """
    from dlc.artifact import Artifact
    from dlc.bench import parse_dims
    from dlc.config import find
    from dlc.gate.destinations import Destinations
    from dlc.gate.flow import as_json, gate
    from dlc.gate.settings import settings

    loaded = Artifact.load(artifact)
    configuration = find(config)
    if (overlooked := configuration.overlooks(loaded.manifest.name)) is not None:
        click.echo(f"note: {overlooked}", err=True)
    chosen = settings(
        loaded.manifest.name, configuration, recipe_file=recipe_file, artifact=artifact, baseline=baseline,
        variants=variants, dims=parse_dims(dims), seed=seed,
    )  # fmt: skip
    if update_baseline and chosen.baseline is None:
        raise click.UsageError("--update-baseline needs --baseline: the file to write")
    if bisect and (chosen.baseline is None or update_baseline):
        raise click.UsageError("--bisect undoes what changed since a baseline: name one with --baseline")
    destinations = Destinations(junit, summary, record, chosen.baseline if update_baseline else None)
    destinations.check()
    with progress() as bar:
        outcome = gate(
            loaded, chosen.recipe, chosen.limits, chosen.how, against=chosen.baseline, update=update_baseline,
            progress=bar,
        )  # fmt: skip
        if bisect:
            from dlc.gate.bisecting import bisected

            outcome = bisected(outcome, loaded, chosen, bar)
    if form == "json":
        print_json(as_json(outcome))
    else:
        _print(outcome, verbose)
    destinations.write(outcome)  # last: what cannot be written takes no verdict away
    return outcome.exit_code


def _print(outcome: Outcome, verbose: int) -> None:
    blames = outcome.blame_of()
    for line in outcome.lines:
        if line.status or line.warns or verbose:
            click.echo(str(line))
        if (blame := blames.get(line.name)) is not None:
            for each in blame.lines():
                click.echo(f"  {each}")
    if verbose:
        for change in outcome.changes:
            click.echo(f"changed: {f'{change.variant}: ' if change.variant else ''}{change.text}")
    if outcome.written is not None:
        click.echo(f"baseline: {outcome.written}")
    click.echo(f"{outcome.now.model}: {outcome.status}")
