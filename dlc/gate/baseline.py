"""The file that a gate compares with: one observation, and a digest that tells whether somebody edited it.

``docs/baseline.schema.json`` is made from these classes: ``python -m dlc.gate.baseline > docs/baseline.schema.json``.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from dlc.errors import ArtifactError
from dlc.gate.observation import Observation
from dlc.manifest import Interfaces, Record
from dlc.pretty import pretty_json
from dlc.whole_file import write_whole

SCHEMA: Final = "dlc-baseline/2"


class Baseline(Record, frozen=True, kw_only=True):
    """``digest``: SHA-256 of the observation as canonical JSON."""

    schema: Literal["dlc-baseline/2"]
    digest: str
    observation: Observation


def write(path: Path, seen: Observation) -> None:
    """Write a baseline, whole or not at all; one that is there is replaced."""
    record = Baseline(schema=SCHEMA, digest=_digest(seen), observation=seen)
    text = pretty_json(record)
    try:
        write_whole(path, text)
    except OSError as error:
        raise ArtifactError(f"baseline {path} cannot be written: {error.strerror}") from error


def read(path: Path) -> Observation:
    """Read a baseline; ArtifactError if it is missing, of another schema, or not as it was written."""
    try:
        plain = path.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError(
            f"baseline {path} does not exist: write it with the same command and --update-baseline"
        ) from error
    except OSError as error:
        raise ArtifactError(f"baseline {path} cannot be read: {error.strerror}") from error
    found = _checked(path, plain)
    try:
        record = msgspec.json.decode(plain, type=Baseline)
        intact = record.digest in (_digest(record.observation), _digest(found["observation"]))
    except msgspec.DecodeError as error:
        raise ArtifactError(f"baseline {path} is damaged: {error}; write it anew with --update-baseline") from error
    if not intact:
        raise ArtifactError(
            f"baseline {path} was edited after it was written: its digest does not match. A baseline is measured, not "
            f"typed: restore it from version control, or write it anew with --update-baseline"
        )
    return record.observation


def check(path: Path, before: Observation, now: Observation) -> None:
    """Refuse a baseline of another model, interface or metric; ArtifactError says which."""
    check_model(path, (before.model, before.interface), (now.model, now.interface))
    for variant in now.variants:
        earlier = before.variant(variant.precision)
        if earlier and earlier.score and variant.score and earlier.score.metric != variant.score.metric:
            raise ArtifactError(
                f"baseline {path} holds {earlier.score.metric}, the recipe measures {variant.score.metric}: two "
                f"metrics cannot be compared; write it anew with --update-baseline"
            )


def check_model(path: Path, then: tuple[str, Interfaces], now: tuple[str, Interfaces]) -> None:
    """Refuse a baseline, a file or an artifact, of another model or interface: known before anything is measured."""
    if then[0] != now[0]:
        raise ArtifactError(f"baseline {path} is of {then[0]!r}, the artifact of {now[0]!r}: name the right one")
    if then[1] != now[1]:
        raise ArtifactError(
            f"baseline {path} is of a model with another interface: {_interface(then[1])}, now {_interface(now[1])}; "
            f"if that is meant, write it anew with --update-baseline"
        )


def schema_text() -> str:
    """Return the JSON Schema (Draft 2020-12) of a baseline, as it is published."""
    described = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:dlc:{SCHEMA.replace('/', ':')}",
        "title": SCHEMA,
        **msgspec.json.schema(Baseline),
    }
    return json.dumps(described, indent=1, ensure_ascii=False) + "\n"


def _checked(path: Path, plain: bytes) -> dict[str, Any]:
    """Return the content as it stands there, without the fields that were added to the schema since."""
    try:
        found: Any = msgspec.json.decode(plain)
    except msgspec.DecodeError as error:
        raise ArtifactError(f"baseline {path} is not JSON: {error}; write it anew with --update-baseline") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        what = f"of schema {schema!r}" if isinstance(schema, str) else "no baseline"
        raise ArtifactError(f"{path} is {what}; expected {SCHEMA}: write it anew with --update-baseline")
    return dict(found)


def _digest(seen: Observation | Mapping[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(seen, order="sorted")).hexdigest()


def _interface(found: Interfaces) -> str:
    return f"{', '.join(found.inputs)} → {', '.join(found.outputs)}"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
