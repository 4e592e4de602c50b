"""Packages that hold a whole chain: a folder for each variant, ``chain.json``, and a proof for each link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dlc.packaging import golden, record
from dlc.packaging.chain import chain
from dlc.packaging.form import Proof
from dlc.packaging.programs import judge_run, last_words, run
from dlc.packaging.record import Link
from dlc.packaging.source import Source
from dlc.pretty import pretty_json

CHAIN = "chain.json"
UNFIT = 3
"""Exit code of a package's own program where the machine cannot run the variant that it was asked for."""


def write(sources: Sequence[Source], folder: Path) -> list[golden.Golden]:
    """Write the chain, and for each variant its model and golden vectors; return what the vectors are."""
    (folder / CHAIN).write_bytes(pretty_json(chain(sources)))
    return [_write(source, folder / source.precision) for source in sources]


def _write(source: Source, folder: Path) -> golden.Golden:
    folder.mkdir()
    source.copy_model(folder)
    return golden.write(source, folder)


def prove(
    subject: str, command: Sequence[str | Path], folder: Path, env: Mapping[str, str] | None = None
) -> list[Proof]:
    """Run a package's own program once for each link, its variant as the last word of the command.

    One that this machine cannot run is left out, if there is another.
    """
    proofs = [_prove(f"{subject}, {link.variant}", link, command, folder, env) for link in record.read(folder).chain]
    ran = any(p.answer or not p.ok for p in proofs)
    return proofs if ran else [replace(p, ok=False) for p in proofs]


def _prove(
    subject: str, link: Link, command: Sequence[str | Path], folder: Path, env: Mapping[str, str] | None
) -> Proof:
    child = run([*command, link.variant], folder, env)
    if child.returncode == UNFIT:
        return Proof(subject, ok=True, detail=f"not replayed here: {last_words(child)}")
    return judge_run(subject, link.variant, child)
