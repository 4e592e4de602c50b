"""dlc package ARTIFACT/VARIANT --as FORM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dlc.cli.common import Format, common, print_json, print_table
from dlc.packaging import FORMS

if TYPE_CHECKING:
    from dlc.packaging.budgets import Budget, Candidate
    from dlc.packaging.compose import Packaged
    from dlc.packaging.form import Proof

DEFAULT = "onnx"


@click.command(short_help="Package a variant for the place where it runs, and prove there that it does the same.")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--as", "form_name", type=click.Choice([*FORMS, "bundle"]), required=True, help="What to make.")
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), default="packages", show_default=True,
              help="Folder that receives the package.")  # fmt: skip
@click.option("--fallback", "precisions", multiple=True, metavar="VARIANT",
              help="Variant to take along for machines that cannot run the first; may be repeated.")  # fmt: skip
@click.option("--max-size", metavar="SIZE", help="Largest model file, for example 5MB.")
@click.option("--max-memory", metavar="SIZE", help="Largest memory beyond the bare runtime, for example 32MiB.")
@click.option("--max-latency", metavar="TIME", help="Largest median latency, for example 10ms.")
@click.option("--of", "inner", type=click.Choice([*FORMS]), help="What a bundle is a zip of.  [default: onnx]")
@click.option("--sign", "key", type=click.Path(path_type=Path, dir_okay=False), help="Ed25519 key that signs a bundle.")
@click.option("--licence", type=click.Path(path_type=Path), help="Licence of the model, to be taken along.")
@click.option("--allow-failing", is_flag=True, help="Package a variant that failed its gates, and mark it.")
@click.option("--no-check", is_flag=True, help="Do not run the package here.")
@click.option("--overwrite", is_flag=True, help="Replace a package that exists.")
@common
def command(
    source: Path, form_name: str, out: Path, max_size: str | None, max_memory: str | None, max_latency: str | None,
    precisions: tuple[str, ...], inner: str | None, key: Path | None, licence: Path | None, allow_failing: bool,
    no_check: bool, overwrite: bool, form: Format, verbose: int,
) -> int:  # fmt: skip
    """Package SOURCE for the place where it will run, and replay its golden vectors there.

    SOURCE is ARTIFACT/VARIANT, or ARTIFACT: then the best variant within the budgets is taken. Exit code 0 if every
    check holds; 1 if one does not, or nothing fits the budgets, and then no package is left.

    \b
        dlc package build/digits-cnn/int8 --as onnx
        dlc package build/minilm --as onnx --max-size 25MB --max-latency 5ms
        dlc package build/minilm/int8 --as web -o site
        dlc package build/minilm/int8 --as bundle --of web --sign key.pem
    """
    from dlc.errors import UserError
    from dlc.packaging.budgets import Budget
    from dlc.packaging.bundle import bundle
    from dlc.packaging.chain import fallbacks
    from dlc.packaging.compose import compose
    from dlc.packaging.source import load_source
    from dlc.quantities import milliseconds, size

    budget = Budget(
        size=size(max_size) if max_size else None,
        memory=size(max_memory) if max_memory else None,
        latency_ms=milliseconds(max_latency) if max_latency else None,
    )
    chosen = _choose(source, budget, allow_failing=allow_failing, form=form)
    if chosen is None:
        return 1
    sources = fallbacks(load_source(chosen, allow_failing=allow_failing), precisions, allow_failing=allow_failing)
    if form_name == "bundle":
        made = bundle(sources, inner or DEFAULT, out, key=key, check=not no_check, overwrite=overwrite, licence=licence)
    elif key is not None or inner is not None:
        raise UserError(f"--of and --sign are about bundles: write --as bundle --of {form_name}")
    else:
        made = compose(sources, form_name, out, check=not no_check, overwrite=overwrite, licence=licence)
    if form == "json":
        print_json({"path": str(made.path) if made.path else None, "bytes": made.bytes, "proofs": made.proofs,
                    "package": made.package})  # fmt: skip
    else:
        _print(made)
    return 0 if made.ok else 1


def _choose(source: Path, budget: Budget, *, allow_failing: bool, form: Format) -> Path | None:
    """Return the folder of the variant that is packaged; None, after the table was printed, if none fits."""
    from dlc.artifact import MANIFEST
    from dlc.packaging.budgets import Budget, best, candidates
    from dlc.packaging.source import load_artifact

    whole = (source / MANIFEST).is_file()
    if not whole and budget == Budget():
        return source
    artifact = load_artifact(source if whole else source.parent)
    if not whole:
        artifact.variant(source.name)  # one that does not exist is no budget's fault
    found = candidates(artifact, budget, allow_failing=allow_failing, only=None if whole else source.name)
    chosen = best(found)
    if form == "json":
        if chosen is None:
            print_json({"fits": None, "candidates": found})
    else:
        headers = ("", "variant", "verdict", "size", "memory", "latency", "does not fit")
        print_table(headers, [_candidate(c, taken=c is chosen) for c in found])
        if artifact.manifest.measured_on != artifact.manifest.target:
            click.echo("latency and memory were measured on another machine than the target")
        if chosen is None:
            click.echo("nothing fits: raise a budget, or compile with --within-size or --within-ms")
    return artifact.path / chosen.precision if chosen else None


def _candidate(candidate: Candidate, *, taken: bool) -> tuple[str, ...]:
    size, memory = ("" if n is None else f"{n / 1e6:.2f} MB" for n in (candidate.size, candidate.memory))
    latency = "" if candidate.latency_ms is None else f"{candidate.latency_ms:.3f} ms"
    mark = "taken" if taken else ""
    return mark, candidate.precision, candidate.verdict, size, memory, latency, "; ".join(candidate.problems)


def _print(made: Packaged) -> None:
    rows = [_row(proof) for proof in made.proofs]
    if rows:
        print_table(("", "checked in", "loads", "golden vectors", "latency", "peak memory"), rows)
    for proof in made.proofs:
        if proof.detail:
            click.echo(f"{proof.subject}: {proof.detail}")
    size = f"{made.bytes / 1e6:.2f} MB in {len(made.package.files) + 1} files"
    click.echo(f"{made.path}: {size}" if made.path else f"no package was left: a check failed ({size})")
    if not made.proofs:
        click.echo("not checked here")


def _row(proof: Proof) -> tuple[str, ...]:
    mark = "ok" if proof.ok else "FAIL"
    if (answer := proof.answer) is None:
        return mark, proof.subject, "" if proof.ok else "no", "", "", ""
    vectors = f"{answer.vectors} within {answer.worst:.2g} (bound {answer.bound:.2g})"
    peak = "" if answer.peak_bytes is None else f"{answer.peak_bytes / 2**20:.1f} MiB"
    where = answer.runtime if answer.runtime in proof.subject else f"{proof.subject}, {answer.runtime}"
    return mark, where, f"{answer.load_ms:.1f} ms", vectors, f"{answer.latency_ms:.3f} ms", peak
