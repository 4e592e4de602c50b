from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from dlc.manifest import Manifest, json_schema, schema_text
from tests.report.example import EXAMPLES, LABELLED, large

PUBLISHED = Path(__file__).parents[1] / "docs" / "manifest.schema.json"


def as_json(manifest: Manifest) -> Any:
    return msgspec.json.decode(msgspec.json.encode(manifest))


def problems(document: Any) -> list[str]:
    return [e.message for e in Draft202012Validator(json_schema()).iter_errors(document)]


def test_the_published_schema_is_up_to_date() -> None:
    command = "python -m dlc.manifest > docs/manifest.schema.json"
    assert PUBLISHED.read_text(encoding="utf-8") == schema_text(), f"run: {command}"


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("manifest", [*EXAMPLES.values(), large(sites=20, buffers=5)[0]], ids=[*EXAMPLES, "large"])
def test_examples_are_valid_and_survive_the_round_trip(manifest: Manifest) -> None:
    assert problems(as_json(manifest)) == []
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest) == manifest


def _spoil(path: str, value: object) -> Callable[[Any], None]:
    *parents, last = path.split(".")

    def spoil(document: Any) -> None:
        for key in parents:
            document = document[int(key)] if key.isdigit() else document[key]
        document[last] = value

    return spoil


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", "dlc-manifest/2"),
        ("variants.0.verdict.status", "good"),
        ("variants.0.latency.median_ms", "fast"),
        ("variants.0.size.bytes", 1.5),
        ("variants.0.surprise", 1),
        ("variants.0.accuracy.value.low", None),
        ("dims.batch", [1, 2]),
        ("data.0.role", "training"),
    ],
)
def test_what_breaks_the_contract_is_refused_by_schema_and_reader_alike(path: str, value: object) -> None:
    document = as_json(LABELLED)
    _spoil(path, value)(document)
    assert problems(document)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(document, Manifest)


def test_every_part_of_the_record_explains_itself() -> None:
    undescribed = [name for name, part in json_schema()["$defs"].items() if not part.get("description")]
    assert undescribed == []


def test_a_number_that_json_cannot_hold_does_not_validate() -> None:
    latency = msgspec.structs.replace(LABELLED.reference.latency, median_ms=math.inf)
    reference = msgspec.structs.replace(LABELLED.reference, latency=latency)
    assert problems(as_json(msgspec.structs.replace(LABELLED, reference=reference)))
