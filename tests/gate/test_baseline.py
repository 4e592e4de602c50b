"""Baselines: written whole, read strictly."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from dlc.errors import ArtifactError
from dlc.gate import baseline
from dlc.manifest import Interfaces
from tests.gate.example import observation, score


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "baselines" / "digits.json"
    baseline.write(path, observation())
    return path


def edited(path: Path, change: Any) -> Path:
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))
    return path


def test_what_is_written_is_read(written: Path) -> None:
    assert baseline.read(written) == observation()
    assert [p.name for p in written.parent.iterdir()] == ["digits.json"]  # nothing half-written beside it
    rows = baseline.read(written).variants[1].score
    assert rows is not None
    assert rows.rows.unpack().mean() == 0.95


def test_the_same_bytes_for_the_same_numbers(written: Path) -> None:
    before = written.read_bytes()
    baseline.write(written, observation())
    assert written.read_bytes() == before


def test_the_published_schema_is_of_today_s_classes_and_holds(written: Path) -> None:
    published = (Path(__file__).parents[2] / "docs" / "baseline.schema.json").read_text()
    assert published == baseline.schema_text(), "python -m dlc.gate.baseline > docs/baseline.schema.json"
    jsonschema.validate(json.loads(written.read_text()), json.loads(published))


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none.json does not exist: .* --update-baseline"):
        baseline.read(tmp_path / "none.json")


def test_a_baseline_of_an_earlier_schema_is_read(written: Path) -> None:
    """Fields that were added since have defaults; its digest is of the fields that it has."""

    def earlier(plain: Any) -> None:
        for machine in ("target", "compiled_on", "measured_on"):
            for name in ("cpu", "cores", "system"):
                del plain["observation"][machine][name]
        canonical = msgspec.json.encode(plain["observation"], order="sorted")
        plain["digest"] = hashlib.sha256(canonical).hexdigest()

    assert baseline.read(edited(written, earlier)) == observation()
    with pytest.raises(ArtifactError, match="was edited"):
        baseline.read(edited(written, lambda plain: plain["observation"].update(seed=1)))


def test_another_order_and_indentation_are_no_edit(written: Path) -> None:
    written.write_text(json.dumps(json.loads(written.read_text()), sort_keys=True))
    assert baseline.read(written) == observation()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b["observation"].update(reference_ms=2.0), "was edited after it was written"),
        (lambda b: b["observation"]["variants"].pop(), "was edited after it was written"),
        (lambda b: b.update(digest="0" * 64), "was edited after it was written"),
        (lambda b: b.update(schema="dlc-baseline/1"), "is of schema 'dlc-baseline/1'; expected dlc-baseline/2"),
        (lambda b: b.pop("schema"), "is no baseline"),
        (lambda b: b["observation"].update(extra=1), "is damaged"),
        (lambda b: b["observation"].pop("model"), "is damaged"),
    ],
)
def test_edited(written: Path, change: Any, words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        baseline.read(edited(written, change))


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[]", b"3"])
def test_no_baseline_at_all(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(ArtifactError, match="--update-baseline"):
        baseline.read(tmp_path / "x.json")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        baseline.read(tmp_path)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"):
        baseline.write(tmp_path / "file" / "b.json", observation())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": "minilm"}, "is of 'minilm', the artifact of 'digits'"),
        ({"interface": Interfaces(inputs=("x: float32[4]",), outputs=("y: float32[4]",))}, "another interface"),
    ],
)
def test_of_something_else(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        baseline.check(Path("b.json"), observation(**changed), observation())


def test_of_another_metric() -> None:
    other = msgspec.structs.replace(score(), metric="f1")
    with pytest.raises(ArtifactError, match="holds f1, the recipe measures top1"):
        baseline.check(Path("b.json"), observation(int8={"score": other}), observation())
    baseline.check(Path("b.json"), observation(), observation())
