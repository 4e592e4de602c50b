"""dlc verify ARTIFACT|PACKAGE."""

from __future__ import annotations

from pathlib import Path

import click

from dlc.cli.common import Format, common, print_json, print_table


@click.command(short_help="Check every byte of an artifact or a package, then replay its golden vectors.")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "--key", type=click.Path(path_type=Path, dir_okay=False), help="Public key that must have signed a package."
)
@click.option("--trust", is_flag=True, help="Run the program of a package although no key shows who made it.")
@common
def command(artifact: Path, key: Path | None, trust: bool, form: Format, verbose: int) -> int:
    """Check ARTIFACT: hash every file, load each model in a process without torch, replay its golden vectors.

    ARTIFACT may also be what dlc package made, a folder or a bundle. With --key it must be signed by that key's owner,
    and then its own program replays the vectors in its runtime.
    Exit code 0 if all holds, 1 if something does not.

    \b
        dlc verify build/digits-cnn
        dlc verify packages/digits-cnn-int8-onnx.zip --key pub.pem
    """
    from dlc.artifact import MANIFEST
    from dlc.errors import UserError
    from dlc.packaging import bundle
    from dlc.packaging.record import RECORD
    from dlc.verify import verify

    if artifact.is_file() or ((artifact / RECORD).is_file() and not (artifact / MANIFEST).is_file()):
        checks = bundle.verify(artifact, key, trust=trust)
    elif key is not None:
        raise UserError(f"{artifact} is not a package, and only packages are signed: make one with dlc package")
    else:
        checks = verify(artifact)
    if form == "json":
        print_json(checks)
    else:
        print_table(("", "what", "evidence"), [("ok" if c.ok else "FAIL", c.subject, c.detail) for c in checks])
    return 0 if all(c.ok for c in checks) else 1
