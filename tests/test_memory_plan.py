from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from dlc.errors import ArtifactError
from dlc.export import export
from dlc.memory_plan import MemoryPlan, encode, read
from dlc.models import digits_cnn
from dlc.passes.plan_memory import Plan, plan

SHA = "ab" * 32


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan(export(digits_cnn.recipe(), opset=20, ir_version=10).model, {"batch": 4})


def test_round_trip(planned: Plan, tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    path.write_bytes(encode(planned, SHA))
    recorded = read(path)
    assert recorded.plan() == planned
    assert recorded.model_sha256 == SHA
    assert encode(recorded.plan(), SHA) == path.read_bytes()


def test_the_text_is_stable_and_names_its_schema(planned: Plan) -> None:
    fields = msgspec.json.decode(encode(planned, SHA))
    assert fields["schema"] == "dlc-memory/1"
    assert fields["dims"] == {"batch": 4}
    assert fields["lower_bound_bytes"] <= fields["arena_bytes"]
    assert set(fields["buffers"][0]) == {"name", "size", "offset", "first", "last"}
    assert len(fields["order"]) >= max(b["last"] for b in fields["buffers"])


@pytest.mark.parametrize("damage", [b"{", b'{"schema": "dlc-memory/2"}', b"\xff", b'{"schema": "dlc-memory/1"}'])
def test_damage_is_an_artifact_error(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    path.write_bytes(damage)
    with pytest.raises(ArtifactError, match=r"memory\.json is damaged or not of schema dlc-memory/1"):
        read(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"memory\.json cannot be read"):
        read(tmp_path / "memory.json")


def test_unknown_fields_are_refused(planned: Plan, tmp_path: Path) -> None:
    fields = msgspec.to_builtins(MemoryPlan.of(planned, SHA)) | {"extra": 1}
    path = tmp_path / "memory.json"
    path.write_bytes(msgspec.json.encode(fields))
    with pytest.raises(ArtifactError, match="extra"):
        read(path)
