"""The command line: one file a verb. Parses, prints, sets exit codes; no logic.

Exit codes: 0 success, 1 a gate failed, 2 a user's mistake, 3 something is missing here, 4 a bug of dlc, 5 inconclusive.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

import click

from dlc import __version__
from dlc.errors import DlcError, UserError
from dlc.lookup import load

VERBS = {
    "bench": "dlc.cli.bench:command",
    "compare": "dlc.cli.compare:command",
    "compile": "dlc.cli.compile:command",
    "data": "dlc.cli.data:command",
    "debug": "dlc.cli.debug:command",
    "doctor": "dlc.cli.doctor:command",
    "gate": "dlc.cli.gate:command",
    "inspect": "dlc.cli.inspect:command",
    "package": "dlc.cli.package:command",
    "plan": "dlc.cli.plan:command",
    "registry": "dlc.cli.registry:command",
    "target": "dlc.cli.target:command",
    "verify": "dlc.cli.verify:command",
    "zoo": "dlc.cli.zoo:command",
}
INTERRUPTED = 130
BUG = 4


class Verbs(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs, in alphabetical order."""
        return [*VERBS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = load(VERBS[cmd_name])
        return command


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="dlc")
def cli() -> None:
    """Compile trained models for ONNX Runtime: rewrites that were measured, precisions that were judged."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code."""
    try:
        return int(cli.main(list(arguments), prog_name="dlc", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted: nothing half-written was left behind", err=True)
        return INTERRUPTED
    except DlcError as error:
        _explain(error, arguments)
        return error.exit_code
    except MemoryError:
        click.echo("error: not enough memory for this: take smaller sizes, or another machine", err=True)
        return UserError.exit_code
    except Exception as error:  # noqa: BLE001 - the last line of defence: a bug of ours still gets its exit code
        _explain(error, arguments)
        click.echo("this is a bug in dlc; run again with --debug to see where", err=True)
        return BUG


def _explain(error: Exception, arguments: Sequence[str]) -> None:
    if "--debug" in arguments:
        traceback.print_exception(error)
    kind = "" if isinstance(error, DlcError) else f"{type(error).__name__}: "
    click.echo(f"error: {kind}{error}", err=True)
    for note in getattr(error, "__notes__", ()):
        click.echo(note, err=True)


def main() -> None:
    """Entry point of the ``dlc`` script."""
    signal.signal(signal.SIGTERM, _interrupt)  # docker stop and CI time-outs clean up as Ctrl-C does
    try:
        sys.exit(run(sys.argv[1:]))
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
