"""dlc verify ARTIFACT."""

from __future__ import annotations

from pathlib import Path

import click

from dlc.cli.common import Format, common, print_json, print_table


@click.command(short_help="Check every byte of an artifact, then replay its golden vectors in a clean process.")
@click.argument("artifact", type=click.Path(path_type=Path))
@common
def command(artifact: Path, form: Format, verbose: int) -> int:
    """Check ARTIFACT: hash every file, load each model in a process without torch, replay its golden vectors.

    Exit code 0 if all holds, 1 if something does not.

    \b
        dlc verify build/digits-cnn
    """
    from dlc.verify import verify

    checks = verify(artifact)
    if form == "json":
        print_json(checks)
    else:
        print_table(("", "what", "evidence"), [("ok" if c.ok else "FAIL", c.subject, c.detail) for c in checks])
    return 0 if all(c.ok for c in checks) else 1
