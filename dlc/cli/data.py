"""dlc data check RECIPE|ARTIFACT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dlc.cli.common import Format, common, print_json, print_table

if TYPE_CHECKING:
    from dlc.data_check import Checked


@click.group("data", short_help="Check data: contracts, leaks between data sets, drift of new data.")
def command() -> None:
    """Check the data of a recipe, and new data against what a model was calibrated on."""


@command.command("check", short_help="Contract, leaks and drift.")
@click.argument("subject", metavar="RECIPE|ARTIFACT")
@click.option("-r", "--recipe", "overrides", type=click.Path(path_type=Path), help="TOML recipe for a model file.")
@click.option("--data", "new", metavar="NEW", help="Data to hold against it: .npz, or a recipe with evaluation data.")
@click.option("--psi", type=click.FloatRange(0, min_open=True), help="Most that PSI may be. Default: as it states.")
@click.option("--ks", type=click.FloatRange(0, 1, min_open=True), help="Most that KS may be. Default: as it states.")
@common
def check(
    subject: str, overrides: Path | None, new: str | None, psi: float | None, ks: float | None, form: Format,
    verbose: int,
) -> int:  # fmt: skip
    """Check the data of a RECIPE (file or zoo name), or new data against the statistics in an ARTIFACT.

    Exit code 1 if data drifted beyond the limits, or calibration examples are evaluation examples; 2 if a contract is
    broken or data does not fit the model.

    \b
        dlc data check digits-cnn
        dlc data check build/digits-cnn --data new.npz
    """
    from dlc.data_check import check as look

    found = look(subject, overrides, new, psi=psi, ks=ks)
    if form == "json":
        print_json(found)
    else:
        _print(found)
    return 0 if found.holds else 1


def _print(found: Checked) -> None:
    if found.data:
        headers = ("data", "name", "examples", "contract", "sha256")
        print_table(headers, [(d.role, d.name, str(d.examples), d.contract or "none", d.sha256) for d in found.data])
    if found.leaked:
        click.echo(f"FAIL: {found.leaked} calibration examples are evaluation examples too")
    if found.against is not None:
        click.echo(f"{found.examples} examples against {found.against}; at most PSI {found.psi:g}, KS {found.ks:g}")
        print_table(
            ("value", "kind", "PSI", "KS", "outside", ""),
            [
                (m.value, m.kind, f"{m.psi:.3f}", f"{m.ks:.3f}", f"{m.outside:.2%}", "DRIFT" if m.drifted else "ok")
                for m in found.moved
            ],
        )
    for note in found.notes:
        click.echo(f"note: {note}")
