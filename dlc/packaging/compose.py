"""From a variant to a package that was proved: write, seal, run it in its runtime, and only then put it in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from dlc import __version__
from dlc.artifact import staging
from dlc.errors import ArtifactError, Unsupported, UserError
from dlc.lookup import load
from dlc.packaging import FORMS, record, texts
from dlc.packaging.chain import chain
from dlc.packaging.form import Form, Proof
from dlc.packaging.limits import explain
from dlc.packaging.record import RECORD, Package
from dlc.packaging.source import Source
from dlc.types import Bytes


@dataclass(frozen=True, slots=True)
class Packaged:
    """A package on disk, what its checks said, and its size; ``path`` is None if a check failed: nothing was left."""

    path: Path | None
    package: Package
    proofs: tuple[Proof, ...]
    bytes: Bytes

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return all(p.ok for p in self.proofs)


class _FailedProofError(Exception):
    """Takes a staged package away again; says what it was."""

    def __init__(self, made: Packaged) -> None:
        super().__init__()
        self.made = made


def form_called(name: str) -> Form:
    """Return a form; ArtifactError if this version of dlc has none of that name."""
    if name not in FORMS:
        raise ArtifactError(f"form {name!r} is none that this dlc knows: it has {', '.join(FORMS)}; see dlc --version")
    form: Form = load(FORMS[name])()
    return form


def destination(out: Path, source: Source, form: str) -> Path:
    """Return where a package goes."""
    return out / f"{source.name}-{source.precision}-{form}"


def compose(
    sources: Sequence[Source], form_name: str, out: Path, *, check: bool = True, overwrite: bool = False,
    licence: Path | None = None,
) -> Packaged:  # fmt: skip
    """Package the first of these variants, with the others as its fallbacks, into a folder of ``out``."""
    form = form_called(form_name)
    if len(sources) > 1 and not form.takes_fallbacks:
        takers = ", ".join(name for name, path in FORMS.items() if load(path).takes_fallbacks)
        raise UserError(f"--fallback: the form {form_name} holds one variant; those that hold several: {takers}")
    _check_providers(sources, form)
    if licence is not None and not licence.is_file():
        raise UserError(f"--licence {licence}: there is no such file")
    if check:
        form.require()
    place = destination(out, sources[0], form_name)
    try:
        with staging(place, overwrite=overwrite, marker=RECORD) as folder:
            package = write(sources, form, folder, licence)
            size = record.total(p for p in folder.rglob("*") if p.is_file())
            proofs = form.check(folder.resolve()) if check else []
            made = Packaged(place, package, tuple(_explained(p, sources[0], package) for p in proofs), size)
            _require(made)
    except _FailedProofError as error:
        return replace(error.made, path=None)
    return made


def _check_providers(sources: Sequence[Source], form: Form) -> None:
    for source in sources:
        if (provider := source.session.provider) not in form.providers:
            takers = ", ".join(name for name, path in FORMS.items() if provider in load(path).providers)
            raise Unsupported(
                f"{source.folder} is for {provider}, and the form {form.name} runs on {', '.join(form.providers)} "
                f"alone: package it as {takers}, or compile it for that"
            )


def _require(made: Packaged) -> None:
    if not made.ok:
        raise _FailedProofError(made)


def _explained(proof: Proof, source: Source, package: Package) -> Proof:
    """Add to a failed proof which operator the runtime lacks, and which variant does without."""
    return proof if proof.ok else replace(proof, detail=explain(proof.detail, source, package.runtime))


def write(sources: Sequence[Source], form: Form, folder: Path, licence: Path | None = None) -> Package:
    """Fill a folder and seal it."""
    notes = form.write(sources, folder)
    package = describe(sources, form, notes)
    texts.write_readme(package, folder, sources[0])
    texts.write_notices(package, folder, included=form.includes_runtime, licence=licence)
    texts.write_sbom(package, folder, sources[0])
    return record.seal(folder, package)


def describe(sources: Sequence[Source], form: Form, notes: Sequence[str]) -> Package:
    """Return the record of a package, without its files."""
    source, links = sources[0], chain(sources)
    if form.any_processor:
        links = tuple(msgspec.structs.replace(link, isa=(), why="") for link in links)
    return Package(
        form=form.name,
        model=source.name,
        variant=source.precision,
        verdict=source.variant.verdict,
        artifact_sha256=source.seal,
        dlc=__version__,
        runtime=form.runtime(),
        interface=source.manifest.interface,
        dims=source.manifest.dims,
        tolerance=source.tolerance,
        chain=links,
        notes=tuple(notes),
    )
