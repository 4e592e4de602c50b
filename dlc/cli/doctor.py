"""dlc doctor."""

from __future__ import annotations

import click

from dlc.cli.common import Format, common, print_json, print_table


@click.command(short_help="Show versions, providers, instruction set, opset limits, and what is missing.")
@common
def command(form: Format, verbose: int) -> int:
    """Show what is installed here, what it can run, and the command that adds what is missing.

    Exit code 3 if no ONNX Runtime can be used.

    \b
        dlc doctor
        dlc doctor -v     also the table of opsets per ONNX Runtime version
    """
    from dlc.doctor import diagnose

    diagnosis = diagnose()
    if form == "json":
        print_json(diagnosis)
        return 0 if diagnosis.healthy else 3
    print_table(("what", "state", "to add or mend it"), [(f.subject, f.state, f.remedy) for f in diagnosis.findings])
    if verbose:
        rows = [(version, str(opset), str(ir)) for version, opset, ir in diagnosis.opsets]
        print_table(("ONNX Runtime", "opset up to", "IR up to"), rows)
    return 0 if diagnosis.healthy else 3
