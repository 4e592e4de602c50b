"""The registry: versions that never change, tags that move, and writers that are killed or come at the same time."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dlc.errors import ArtifactError, CapabilityError, Unsupported, UserError
from dlc.packaging import record
from dlc.packaging.compose import compose
from dlc.packaging.registry import Registry, diff
from dlc.packaging.source import load_source
from dlc.packaging.store import Store
from tests.packaging.conftest import Cli

pytest.importorskip("fsspec", reason="needs the extra package")


@pytest.fixture(scope="session")
def packages(compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two versions of one model."""
    out = tmp_path_factory.mktemp("packages")
    made = [compose([load_source(compiled / p)], "onnx", out, check=False).path for p in ("fp32", "int8")]
    return [path for path in made if path is not None]


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """Serve S3 as moto does, in this process; the address of a bucket, which other processes reach by the same name."""
    server = pytest.importorskip("moto.server", reason="needs moto[s3,server] and s3fs")
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("s3fs", reason="needs moto[s3,server] and s3fs")
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("registry")
        yield "s3://registry"
    running.stop()


@pytest.fixture(params=["folder", "memory", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = uuid.uuid4().hex
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{name}"
    return str(tmp_path / name) if request.param == "folder" else f"memory://{name}"


def test_push_tag_roll_back_and_pull(address: str, packages: list[Path], tmp_path: Path) -> None:
    kept = Registry(address)
    (model, first), (_, second) = (kept.push(path) for path in packages)
    assert kept.push(packages[0]) == (model, first), "pushing again changes nothing"
    kept.tag(model, first[:10], "prod")
    kept.tag(model, second, "prod")
    assert {v.digest: v.tags for v in kept.versions(model)} == {first: (), second: ("prod",)}
    place = kept.pull(model, "prod", tmp_path / "pulled")
    assert record.list_files(place) == record.list_files(packages[1])
    assert (place / record.RECORD).read_bytes() == (packages[1] / record.RECORD).read_bytes()
    assert kept.rollback(model, "prod") == first
    assert kept.resolve(model, "prod") == first
    with pytest.raises(UserError, match="never stood elsewhere"):
        kept.rollback(model, "prod")
    assert list(kept.faults()) == []


def test_rollbacks_go_back_move_by_move_and_moves_after_them_do_too(address: str, packages: list[Path]) -> None:
    kept = Registry(address)
    (model, a), (_, b) = (kept.push(path) for path in packages)
    for version in (a, b, a):
        kept.tag(model, version, "prod")
    assert [kept.rollback(model, "prod"), kept.rollback(model, "prod")] == [b, a]
    kept.tag(model, b, "prod")
    assert kept.rollback(model, "prod") == a


def test_of_two_writers_at_once_one_is_told(
    address: str, packages: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, other = Registry(address), Registry(address)
    (model, a), (_, b) = (kept.push(path) for path in packages)
    kept.tag(model, a, "prod")
    seen = kept.store.names
    monkeypatch.setattr(kept.store, "names", lambda folder: [n for n in seen(folder) if n != "00000002.json"])
    other.tag(model, b, "prod")  # between the other's look and its move
    with pytest.raises(UserError, match=r"moved to .* by another writer meanwhile"):
        kept.tag(model, a, "prod")
    assert other.resolve(model, "prod") == b


def test_a_file_is_never_replaced(address: str) -> None:
    store = Store(address)
    assert store.create("a/b", b"one")
    assert not store.create("a/b", b"two")
    assert store.read("a/b") == b"one"
    assert (store.size("a/b"), store.size("a/c")) == (3, None)
    assert (store.names("a"), store.names("nothing")) == (["b"], [])


def test_of_many_writers_of_one_name_exactly_one_succeeds(address: str) -> None:
    if address.startswith("memory"):
        pytest.skip("fsspec's memory looks and then writes; it is for one writer")
    store, writers = Store(address), 8
    start = threading.Barrier(writers)

    def create(name: str, data: bytes) -> bool:
        start.wait()
        return store.create(name, data)

    with ThreadPoolExecutor(writers) as pool:
        for turn in range(25):
            name, contents = f"a/{turn}", [bytes([i]) for i in range(writers)]
            created = list(pool.map(create, [name] * writers, contents))
            assert sum(created) == 1
            assert store.read(name) == contents[created.index(True)]


def object_of(folder: Path, package: Path, name: str) -> Path:
    digest = record.read(package).files[name].sha256
    return folder / "objects" / digest[:2] / digest


def test_damage_is_found_and_never_handed_out(packages: list[Path], tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "registry"
    kept = Registry(str(folder))
    model, digest = kept.push(packages[0])
    kept.tag(model, digest, "prod")
    path = object_of(folder, packages[0], "fp32/model.onnx")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\0")
    with pytest.raises(ArtifactError, match="is damaged: remove it, and push again"):
        kept.pull(model, "prod", tmp_path / "pulled")
    assert not list((tmp_path / "pulled").iterdir())
    path.write_bytes(whole[:-1])
    with pytest.raises(ArtifactError, match="is damaged"):
        kept.push(packages[0])
    path.unlink()
    ran = cli("registry", "check", folder)
    assert ran.code == 1
    assert "is missing: push the package again" in ran.out
    kept.push(packages[0])
    assert cli("registry", "check", folder).code == 0
    version = folder / "versions" / model / f"{digest}.json"
    version.write_bytes(version.read_bytes().replace(b"pass", b"fail"))
    with pytest.raises(ArtifactError, match="is damaged"):
        kept.package(model, digest)
    assert any("is damaged" in line for line in kept.faults())
    version.unlink()
    assert any("which is no version" in line for line in kept.faults())


def signed(package: Path, out: Path, signature: bytes) -> Path:
    """Copy a package, and state a signer; whether the signature is his only a key would tell."""
    copy = Path(shutil.copytree(package, out))
    record.seal(copy, msgspec.structs.replace(record.read(copy), signer="5" * 64))
    (copy / record.SIGNATURE).write_bytes(signature)
    return copy


def test_another_signature_or_record_of_a_version_is_not_passed_over(packages: list[Path], tmp_path: Path) -> None:
    kept = Registry(str(tmp_path / "registry"))
    model, digest = kept.push(signed(packages[0], tmp_path / "garbage", b"garbage"))
    right = signed(packages[0], tmp_path / "right", b"the right one")
    path = tmp_path / "registry" / "signatures" / model / digest
    with pytest.raises(ArtifactError, match=r"signatures/.* holds other bytes: remove it, and push again"):
        kept.push(right)
    path.unlink()
    assert any("its signature is missing" in line for line in kept.faults())
    kept.push(right)
    assert (path.read_bytes(), list(kept.faults())) == (b"the right one", [])
    version = tmp_path / "registry" / "versions" / model / f"{digest}.json"
    version.write_bytes(b"{}")
    with pytest.raises(ArtifactError, match=r"versions/.* holds other bytes"):
        kept.push(right)


def test_a_signature_without_a_signer_is_found(packages: list[Path], tmp_path: Path) -> None:
    kept = Registry(str(tmp_path / "registry"))
    model, digest = kept.push(packages[0])
    kept.store.create(f"signatures/{model}/{digest}", b"x")
    assert [line.rpartition(": ")[2] for line in kept.faults()] == ["it has no signer"]


@pytest.mark.parametrize(("name", "content"), [("00000001.json", b"{"), ("x.json", b"{}"), ("00000001.json", b"\xff")])
def test_a_damaged_move_says_so(name: str, content: bytes, packages: list[Path], tmp_path: Path, cli: Cli) -> None:
    kept = Registry(str(tmp_path / "registry"))
    model, _ = kept.push(packages[0])
    kept.store.create(f"tags/{model}/prod/{name}", content)
    with pytest.raises(ArtifactError, match=r"is damaged|is no move"):
        kept.resolve(model, "prod")
    assert cli("registry", "list", tmp_path / "registry").code == 2
    assert len(list(kept.faults())) == 1


def test_tags_of_a_model_that_is_gone_are_found(packages: list[Path], tmp_path: Path) -> None:
    kept = Registry(str(tmp_path / "registry"))
    model, digest = kept.push(packages[0])
    kept.tag(model, digest, "prod")
    shutil.rmtree(tmp_path / "registry" / "versions" / model)
    assert any("which is no version" in line for line in kept.faults())


def test_a_damaged_package_is_not_pushed(packages: list[Path], tmp_path: Path) -> None:
    copy = shutil.copytree(packages[0], tmp_path / "copy")
    (copy / "run.py").write_text("")
    with pytest.raises(ArtifactError, match=r"run.py is changed"):
        Registry(str(tmp_path / "registry")).push(copy)
    assert Registry(str(tmp_path / "registry")).models() == []


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "x" * 101])
def test_names_stay_in_their_folder(name: str, packages: list[Path], tmp_path: Path) -> None:
    kept = Registry(str(tmp_path / "registry"))
    model, digest = kept.push(packages[0])
    with pytest.raises(UserError, match="is no name for a registry"):
        kept.tag(model, digest, name)


def test_what_does_not_exist_is_named_with_what_does(packages: list[Path], tmp_path: Path) -> None:
    kept = Registry(str(tmp_path / "registry"))
    model, digest = kept.push(packages[0])
    kept.push(packages[1])
    kept.tag(model, digest, "prod")
    with pytest.raises(UserError, match="has no model 'other'; it has centres"):
        kept.resolve("other", "prod")
    with pytest.raises(UserError, match="its tags are prod"):
        kept.resolve(model, "staging")
    with pytest.raises(UserError, match="several versions start so"):
        kept.resolve(model, "")
    with pytest.raises(UserError, match="has no tag 'staging'; it has prod"):
        kept.rollback(model, "staging")


def test_diff_says_what_differs_and_nothing_else(packages: list[Path]) -> None:
    a, b = map(record.read, packages)
    assert diff(a, a) == []
    parts = {part for part, _, _ in diff(a, b)}
    assert {"variant", "tolerance", "chain", "fp32/model.onnx", "int8/model.onnx"} <= parts
    assert "replay.py" not in parts


def test_the_verbs(packages: list[Path], tmp_path: Path, cli: Cli) -> None:
    place = tmp_path / "models"
    pushed = json.loads(cli("registry", "push", place, *packages, "--tag", "prod", "--format", "json").out)
    assert len(pushed) == 2
    listed = json.loads(cli("registry", "list", place, "--format", "json").out)
    assert [v["tags"] for v in sorted(listed, key=lambda v: len(v["tags"]))] == [[], ["prod"]]
    assert "prod is now" in cli("registry", "rollback", place, "centres", "prod").out
    assert "prod is now" in cli("registry", "tag", place, "centres", pushed[1]["version"][:12], "prod").out
    assert "fp32/model.onnx" in cli("registry", "diff", place, "centres", pushed[0]["version"], "prod").out
    ran = cli("registry", "pull", place, "centres", "prod", "-o", tmp_path / "got")
    assert ran.code == 0, ran.err
    assert cli("verify", tmp_path / "got" / "centres-int8-onnx", "--trust").code == 0


def test_addresses_that_cannot_be_used_say_why() -> None:
    with pytest.raises(ArtifactError, match="no place that fsspec knows"):
        Store("nowhere://x")
    with pytest.raises(Unsupported, match="ftp replaces files that exist, so one writer could undo another's work"):
        Store("ftp://host/models")
    if importlib.util.find_spec("s3fs") is None:
        with pytest.raises(CapabilityError, match="s3fs"):
            Store("s3://bucket/models")


WRITER = """
import sys
from pathlib import Path
from dlc.errors import UserError
from dlc.packaging.registry import Registry
kept = Registry(sys.argv[1])
for turn in range(1000):
    model, digest = kept.push(Path(sys.argv[2 + turn % 2]))
    try:
        kept.tag(model, digest, "prod")
    except UserError:
        pass
"""


def test_writers_that_are_killed_leave_nothing_half_done(packages: list[Path], tmp_path: Path) -> None:
    place = tmp_path / "registry"
    command = [sys.executable, "-c", WRITER, str(place), *map(str, packages)]
    writers = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(3)]
    kept = Registry(str(place))
    deadline = time.monotonic() + 60
    while not kept.tags("centres") and time.monotonic() < deadline:
        time.sleep(0.05)
    for writer in writers:
        time.sleep(0.05)
        assert list(kept.faults()) == [], "seen while others write"
        writer.kill()
        writer.wait()
    assert list(kept.faults()) == []
    assert len(kept.versions("centres")) == 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"files": {"../../evil": "run.py"}}, "leaves the folder"),
        ({"variant": "/../../evil"}, "is no name for a registry"),
        ({"form": "x/../../../evil"}, "is no name for a registry"),
    ],
)
def test_a_hostile_registry_writes_nothing_outside(
    changed: dict[str, Any], said: str, packages: list[Path], tmp_path: Path
) -> None:
    kept = Registry(str(tmp_path / "registry"))
    model, digest = kept.push(packages[0])
    package = kept.package(model, digest)
    if "files" in changed:
        changed = {"files": {name: package.files[whose] for name, whose in changed["files"].items()}}
    text = record.encode(msgspec.structs.replace(package, **changed))
    name = hashlib.sha256(text).hexdigest()
    kept.store.create(f"versions/{model}/{name}.json", text)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ArtifactError, UserError), match=said):
        kept.pull(model, name, tmp_path / "pulled")
    assert [p for p in sorted(tmp_path.rglob("*")) if p not in before] in ([], [tmp_path / "pulled"])


def test_a_package_whose_variant_is_a_path_is_not_pushed(packages: list[Path], tmp_path: Path) -> None:
    copy = shutil.copytree(packages[0], tmp_path / "copy")
    record.seal(copy, msgspec.structs.replace(record.read(copy), variant="/../../evil"))
    with pytest.raises(UserError, match="is no name for a registry"):
        Registry(str(tmp_path / "registry")).push(copy)
    assert not (tmp_path / "registry").exists()
