"""dlc compare REF CAND."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from dlc.cli.common import Format, common, print_json, print_table, progress

if TYPE_CHECKING:
    from dlc.comparison import Comparison, Kind, Layer

ROWS = 10
LEGEND = (
    "SQNR: energy of the reference over that of the difference. Relative: largest difference over largest magnitude.\n"
    "Layers are compared in the graphs as written: quantized nodes as their simulation in float. Outputs are those of "
    "the kernels."
)


@click.command(short_help="Compare two models: outputs, then layer by layer, and where they first diverge.")
@click.argument("models", nargs=-1, required=True, metavar="[ARTIFACT] REF CAND")
@click.option("--layers", is_flag=True, help="Compare every value and weight that both have, worst first.")
@click.option(
    "-r", "--recipe", "recipe_file", metavar="RECIPE", help="Recipe (.py, .toml, zoo name) whose inputs are taken."
)
@click.option("--dim", "dims", multiple=True, metavar="NAME=SIZE", help="Size of a dynamic dimension; may be repeated.")
@click.option("--batches", type=click.IntRange(1), default=4, show_default=True, help="How many inputs, at most.")
@click.option("--threshold", type=float, metavar="DB",
              help="SQNR below which a layer has diverged. Default: 80; 30 with halves, 20 with 8 bits.")  # fmt: skip
@click.option("--max-ram", default="256MiB", show_default=True, metavar="BYTES", help="Inner tensors held at a time.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the inputs.")
@common
def command(
    models: tuple[str, ...], layers: bool, recipe_file: str | None, dims: tuple[str, ...], batches: int,
    threshold: float | None, max_ram: str, seed: int, form: Format, verbose: int,
) -> int:  # fmt: skip
    """Compare the model CAND with REF: model files or variant folders, or two variants of an ARTIFACT.

    Inputs: calibration data of the recipe, else the golden vectors beside REF, else seeded. Exit code 1 if an output
    holds NaN or infinity on one side only.

    \b
        dlc compare build/digits-cnn fp32 int8 --layers
        dlc compare before.onnx after.onnx --dim batch=8
    """
    from dlc.bench import parse_dims
    from dlc.compared_models import inputs_for, parse_bytes, subjects
    from dlc.comparison import compare
    from dlc.heap import return_freed_blocks

    return_freed_blocks()
    held = parse_bytes(max_ram)
    reference, candidate = subjects(models)
    feeds, inputs = inputs_for(reference, recipe_file, parse_dims(dims), batches, seed)
    with progress() as bar:
        found = compare(
            reference, candidate, feeds, inputs, layers=layers, threshold_db=threshold, max_ram=held, progress=bar
        )
    if form == "json":
        print_json(found)
    else:
        _print(found, layers=layers, rows=None if verbose else ROWS)
    return int(found.differs_in_kind)


def _print(found: Comparison, *, layers: bool, rows: int | None) -> None:
    click.echo(f"{found.candidate} against {found.reference}, on {found.inputs}")
    headers = ("output", "SQNR", "largest difference", "relative", "cosine", "same class")
    print_table(headers, [(o.value, *_cells(o), "" if o.argmax is None else f"{o.argmax:.2%}") for o in found.outputs])
    for output in found.outputs:
        if output.apart.odd:
            click.echo(f"output {output.value!r}: {output.apart.odd} elements are NaN or infinite on one side only")
    if not layers:
        return
    for kind, title in (("activation", "activations"), ("weight", "weights")):
        _print_layers(found, kind, title, rows)  # type: ignore[arg-type]
    if found.first is None:
        click.echo(f"no layer is below {found.threshold_db:g} dB")
    else:
        click.echo(
            f"first divergence: {found.first.value!r}, computed by {found.first.node} ({found.first.op}), "
            f"{found.first.apart.sqnr_db:.1f} dB, below {found.threshold_db:g} dB"
        )
    click.echo(LEGEND)


def _print_layers(found: Comparison, kind: Kind, title: str, rows: int | None) -> None:
    each = [layer for layer in found.layers if layer.kind == kind]
    missed = [u for u in found.unmatched if u.kind == kind]
    worst = sorted(each, key=lambda layer: layer.apart.sqnr_db)
    shown = worst if rows is None else worst[:rows]
    more = f", the {len(shown)} worst" if len(shown) < len(each) else ""
    headers = ("value" if kind == "activation" else "weight", "node", "operator", *HEADERS)
    print_table(
        headers, [(x.value, x.node, x.op, *_cells(x)) for x in shown],
        title=f"{title}: {len(each)} of {len(each) + len(missed)} matched{more}",
    )  # fmt: skip
    if missed:
        click.echo(f"not matched: {_reasons([u.reason for u in missed])}")


HEADERS = ("SQNR", "largest difference", "relative", "cosine")


def _cells(layer: Layer) -> tuple[str, ...]:
    apart = layer.apart
    return (
        f"{apart.sqnr_db:.1f} dB", f"{apart.max_abs:.3g}", f"{apart.relative:.3g}", f"{apart.cosine:.6f}",
    )  # fmt: skip


def _reasons(reasons: Sequence[str]) -> str:
    return "; ".join(f"{n}: {reason}" for reason, n in Counter(reasons).most_common(3))
