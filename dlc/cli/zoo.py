"""dlc zoo, dlc zoo train NAME."""

from __future__ import annotations

from pathlib import Path

import click

from dlc.cli.common import Format, common, print_json, print_table, progress


@click.group(invoke_without_command=True, short_help="List the models that ship; train the project's own.")
@click.pass_context
@common
def command(context: click.Context, form: Format, verbose: int) -> int:
    """List the models that ship with dlc, and what each still needs here.

    \b
        dlc zoo
        dlc zoo train digits-cnn
    """
    if context.invoked_subcommand is not None:
        context.default_map = {"train": {"form": form}}  # dlc zoo --format json train NAME
        return 0
    from dlc.zoo import entries

    found = entries()
    if form == "json":
        print_json(found)
    else:
        rows = [(e.name, e.about, e.metric, e.missing or "; ".join(e.notes) or "ready") for e in found]
        print_table(("name", "what it is", "metric", "here"), rows)
    return 0


@command.command(short_help="Train one of the project's own models anew and compare it with the shipped weights.")
@click.argument("name")
@click.option("--seed", default=0, show_default=True, help="Seed of the initial weights and of the batches.")
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder that receives the weights.")
@common
def train(name: str, seed: int, out: Path | None, form: Format, verbose: int) -> int:
    """Train NAME (digits-mlp or digits-cnn) on scikit-learn's digit scans, in under a minute.

    \b
        dlc zoo train digits-cnn
    """
    from dlc.models import train as training

    with progress() as bar:
        bar.stage(f"train {name}")
        result = training.train(name, seed=seed)
    same = training.reproduces(name, result.weights)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        training.save(name, result.weights, out)
    if form == "json":
        print_json({"name": name, "accuracy": result.accuracy, "seconds": result.seconds, "reproduced": same})
        return 0
    click.echo(f"{name}: {result.accuracy:.2f} % on the held-out third, {result.seconds:.1f} s, seed {seed}")
    click.echo(f"weights {'equal' if same else 'differ from'} the ones that ship{', byte for byte' if same else ''}")
    return 0
