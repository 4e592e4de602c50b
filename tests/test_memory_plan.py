from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jsonschema
import msgspec
import pytest

from dlc.errors import ArtifactError
from dlc.export import export
from dlc.memory_plan import MemoryPlan, encode, read, schema_text
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


@pytest.mark.parametrize(
    ("sha", "shape", "runtime", "reason"),
    [("cd" * 32, (4, 8), "1.0", "of another model"), (SHA, (5, 8), "1.0", r"'x' of shape \[4, 8\], not \[5, 8\]"),
     (SHA, (4, 8), "2.0", "for ONNX Runtime 1.0, this is 2.0")],
)  # fmt: skip
def test_a_plan_is_refused_with_the_reason(
    planned: Plan, sha: str, shape: tuple[int, ...], runtime: str, reason: str
) -> None:
    recorded = MemoryPlan.of(replace(planned, shapes={"x": (4, 8)}, runtime="1.0"), SHA)
    recorded.check(SHA, {"x": (4, 8)}, "1.0")
    with pytest.raises(ArtifactError, match=reason):
        recorded.check(sha, {"x": shape}, runtime)


def test_plans_of_several_sizes_are_one_file(planned: Plan, tmp_path: Path) -> None:
    """Each is read as it was, and a run of either's shapes is one that the file is for."""
    small, large = (replace(planned, dims={"n": n}, shapes={"x": (n, 8)}, arena=64 * n) for n in (2, 4))
    (tmp_path / "memory.json").write_bytes(encode(large, SHA, others=[small]))
    recorded = read(tmp_path / "memory.json")
    assert recorded.plans() == (large, small)
    for n in (2, 4):
        recorded.check(SHA, {"x": (n, 8)}, "")
    with pytest.raises(ArtifactError, match=r"'x' of shape \[2, 8\] or \[4, 8\], not \[3, 8\]"):
        recorded.check(SHA, {"x": (3, 8)}, "")


def test_an_input_that_is_not_there_is_refused(planned: Plan) -> None:
    recorded = MemoryPlan.of(replace(planned, shapes={"x": (4, 8)}), SHA)
    with pytest.raises(ArtifactError, match=r"'x' of shape \[4, 8\], not \[\]"):
        recorded.check(SHA, {}, "1.0")


def test_the_published_schema_is_this_one(planned: Plan) -> None:
    published = (Path(__file__).parent.parent / "docs" / "memory.schema.json").read_text(encoding="utf-8")
    assert published == schema_text(), "python -m dlc.memory_plan > docs/memory.schema.json"
    jsonschema.validate(msgspec.json.decode(encode(planned, SHA)), msgspec.json.decode(published))
