"""The texts of a package: templates of its form, licence notices, and the SBOM."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlc import __version__
from dlc.packaging.record import Package, Runtime
from dlc.packaging.source import Source

TEMPLATES = Path(__file__).parent / "templates"
NOTICES, SBOM = "NOTICES.md", "sbom.cdx.json"
LICENCES = dict.fromkeys(("onnxruntime", "onnxruntime-gpu", "onnxruntime-web", "onnxruntime-node"), "MIT")
"""SPDX identifiers of what packages run on."""


def render(form: str, name: str, **values: Any) -> str:
    """Fill a template of a form; a name that is not given is an error."""
    import jinja2

    loader = jinja2.FileSystemLoader([TEMPLATES / form, TEMPLATES / "common"])
    environment = jinja2.Environment(  # noqa: S701 - Markdown, C and JavaScript, not HTML; values are the artifact's own
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["quoted"] = json.dumps
    return environment.get_template(name).render(**values)


def fill(form: str, name: str, path: Path, **values: Any) -> None:
    """Write a filled template."""
    path.write_text(render(form, name, **values), encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def copy_programs(form: str, names: Sequence[str], folder: Path) -> None:
    """Copy files of a form, or of all forms, as they are."""
    for name in names:
        own = TEMPLATES / form / name
        shutil.copyfile(own if own.is_file() else TEMPLATES / "common" / name, folder / name)


def write_readme(package: Package, folder: Path, source: Source) -> None:
    """Write ``README.md`` from the template of the form."""
    names = [t.name for t in source.interface.inputs]
    fill(package.form, "README.md.j2", folder / "README.md", package=package, inputs=names)


def write_notices(package: Package, folder: Path, *, included: bool, licence: Path | None) -> None:
    """Write who made what is in the package, or runs it, and under which licence."""
    runtime = package.runtime
    model = "see MODEL-LICENCE" if licence else "not stated: dlc was not told (--licence FILE)"
    where = "files in this folder" if included else f"not in this folder; from {runtime.registry}"
    text = (
        f"# Licence notices\n\n| component | licence | where |\n|---|---|---|\n"
        f"| model {package.model} | {model} | weights and graph in this folder |\n"
        f"| programs and texts of this folder | Apache-2.0 | written by dlc {__version__} |\n"
        f"| {runtime.name} {runtime.version} | {LICENCES[runtime.name]} | {where} |\n"
    )
    if included:
        text += f"\n## {runtime.name}\n\n{(TEMPLATES / 'common' / 'MIT.txt').read_text(encoding='utf-8')}"
    (folder / NOTICES).write_text(text, encoding="utf-8")
    if licence:
        (folder / "MODEL-LICENCE").write_bytes(licence.read_bytes())


def write_sbom(package: Package, folder: Path, source: Source) -> None:
    """Write a CycloneDX 1.6 document: the model, by its hash, and what runs it. The serial number follows from both."""
    seed = f"{package.artifact_sha256}/{package.variant}/{package.form}/{package.runtime.version}/{__version__}"
    with source.model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    reference = f"model:{package.model}/{package.variant}"
    runs = _component(package.runtime)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, seed)}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "dlc", "version": __version__}]},
            "component": {
                "type": "machine-learning-model",
                "bom-ref": reference,
                "name": package.model,
                "version": package.artifact_sha256[:12],
                "description": f"variant {package.variant}, verdict {package.verdict.status}",
                "hashes": [{"alg": "SHA-256", "content": digest}],
            },
        },
        "components": [runs],
        "dependencies": [{"ref": reference, "dependsOn": [runs["bom-ref"]]}, {"ref": runs["bom-ref"]}],
    }
    write_json(folder / SBOM, document)


def _component(runtime: Runtime) -> dict[str, Any]:
    purl = f"pkg:{runtime.registry}/{runtime.name}@{runtime.version}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": runtime.name,
        "version": runtime.version,
        "licenses": [{"license": {"id": LICENCES[runtime.name]}}],
        "purl": purl,
    }
