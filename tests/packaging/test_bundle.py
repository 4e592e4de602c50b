"""Bundles: the same bytes each time, and no change to them that goes unnoticed."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import pytest

from dlc.artifact import MANIFEST, Artifact, seal
from dlc.errors import ArtifactError
from dlc.packaging import archive, record, signing
from dlc.packaging.bundle import bundle, verify
from dlc.packaging.source import load_source
from tests.packaging.conftest import Cli

pytest.importorskip("cryptography", reason="needs the extra package")


def make_keys(folder: Path, name: str = "key") -> tuple[Path, Path]:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return make_keys(tmp_path)


@pytest.fixture
def signed(compiled: Path, keys: tuple[Path, Path], tmp_path: Path) -> Path:
    made = bundle([load_source(compiled / "int8")], "onnx", tmp_path / "out", key=keys[0], check=False)
    assert made.path is not None
    return made.path


def failed(path: Path, key: Path | None) -> str:
    return "; ".join(c.detail for c in verify(path, key) if not c.ok)


def test_the_same_artifact_and_key_give_the_same_bytes(compiled: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    source = load_source(compiled / "int8")
    made = [bundle([source], "onnx", tmp_path / name, key=keys[0], check=False).path for name in ("one", "two")]
    first, second = (path.read_bytes() for path in made if path is not None)
    assert first == second


def test_a_name_with_dots_is_kept_whole(artifact: Path, tmp_path: Path) -> None:
    manifest = Artifact.load(artifact).manifest
    (artifact / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, name="resnet-v1.5")))
    seal(artifact)
    made = bundle([load_source(artifact / "int8")], "onnx", tmp_path / "out", check=False)
    assert made.path == tmp_path / "out" / "resnet-v1.5-int8-onnx.zip"
    assert made.path.is_file()


def test_the_zip_of_a_folder_is_pinned(tmp_path: Path) -> None:
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "b.txt").write_text("two")
    (tmp_path / "folder" / "deep" / "a.bin").write_bytes(bytes(range(256)))
    archive.pack(tmp_path / "folder", tmp_path / "x.zip")
    digest = hashlib.sha256((tmp_path / "x.zip").read_bytes()).hexdigest()
    assert digest == "ed3d1eeabc76ae19dcdb4184357a966ba5e488aa9d04eb22fb04cd37ae28880e", (
        "bundles that were sealed before would no longer verify"
    )


def test_a_signed_bundle_verifies_and_replays(signed: Path, keys: tuple[Path, Path], cli: Cli) -> None:
    ran = cli("verify", signed, "--key", keys[1])
    assert ran.code == 0, ran.out
    assert "Ed25519, by the owner of the key" in ran.out
    assert "2 golden vectors, largest relative error 0" in ran.out


def test_a_package_that_no_key_vouches_for_is_not_run(signed: Path, cli: Cli) -> None:
    ran = cli("verify", signed)
    assert ran.code == 0
    assert "not run: it is the package's own program" in ran.out
    assert "golden vectors" not in ran.out
    assert "2 golden vectors" in cli("verify", signed, "--trust").out


def test_another_key_or_no_signature_is_not_good_enough(
    signed: Path, keys: tuple[Path, Path], compiled: Path, tmp_path: Path
) -> None:
    assert failed(signed, make_keys(tmp_path, "other")[1]) == "not by the owner of this key"
    unsigned = bundle([load_source(compiled / "fp32")], "onnx", tmp_path / "out", check=False).path
    assert unsigned is not None
    assert failed(unsigned, keys[1]) == "not signed"
    assert failed(unsigned, None) == ""


def test_every_flip_in_the_container_is_detected_even_without_the_key(signed: Path) -> None:
    whole = signed.read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        start = min(e.header_offset + 30 + len(e.filename) for e in file.infolist())
        directory = file.start_dir
    for position in [*range(start), *range(directory, len(whole), 17), len(whole) - 1]:
        flipped = bytearray(whole)
        flipped[position] ^= 1
        signed.write_bytes(flipped)
        assert failed(signed, None), f"byte {position}"


def rewritten(path: Path, change: str, out: Path) -> Path:
    """Unpack, change and pack again, as somebody would who knows the format."""
    folder = out / "content"
    archive.unpack(path, folder)
    model = folder / "int8" / "model.onnx"
    if change == "added":
        (folder / "int8" / "model2.onnx").write_bytes(b"x")
    elif change == "removed":
        model.unlink()
    elif change == "renamed":
        model.rename(folder / "int8" / "other.onnx")
    elif change == "unsigned":
        (folder / record.SIGNATURE).unlink()
    else:
        model.write_bytes(model.read_bytes() + b"\0")
    if change == "resealed":
        record.seal(folder, record.read(folder))
    archive.pack(folder, out / "again.zip")
    return out / "again.zip"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("added", "model2.onnx is not listed"),
        ("removed", "model.onnx is missing"),
        ("renamed", "other.onnx is not listed"),
        ("changed", "model.onnx is changed"),
        ("unsigned", "its signature is missing"),
        ("resealed", "not by the owner of this key"),
    ],
)
def test_a_bundle_packed_again_after_a_change_is_detected(
    change: str, said: str, signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    assert said in failed(rewritten(signed, change, tmp_path), keys[1])


def hostile(path: Path, name: str, data: bytes = b"x", mode: int = archive.MODE, method: int = 0) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        entry = zipfile.ZipInfo(name, archive.EPOCH)
        entry.create_system, entry.external_attr, entry.compress_type = 3, mode << 16, method
        file.writestr(entry, data)
    return path


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", "C:/evil", "C:evil", "./a", "a//b", "a/", ".."]
)
def test_no_entry_leaves_its_folder(name: str, tmp_path: Path) -> None:
    path = hostile(tmp_path / "x.zip", name)
    (tmp_path / "in").mkdir()
    with pytest.raises(ArtifactError, match="leaves the folder"):
        archive.unpack(path, tmp_path / "in" / "content")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["x.zip"]


def test_links_and_compressed_entries_are_refused(tmp_path: Path) -> None:
    link = hostile(tmp_path / "link.zip", "model.onnx", b"/etc/passwd", stat.S_IFLNK | 0o777)
    with pytest.raises(ArtifactError, match="is not a plain file"):
        archive.unpack(link, tmp_path / "a")
    bomb = hostile(tmp_path / "bomb.zip", "zeros", bytes(1 << 24), method=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 1 << 16
    with pytest.raises(ArtifactError, match=r"more than the .* of the file itself"):
        archive.unpack(bomb, tmp_path / "b")
    small = hostile(tmp_path / "small.zip", "zeros", b"ab", method=zipfile.ZIP_DEFLATED)
    with pytest.raises(ArtifactError, match="is compressed"):
        archive.unpack(small, tmp_path / "c")
    assert not any((tmp_path / name).exists() for name in "abc")


def test_two_entries_of_one_name_and_too_many_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        for name in ("A", "a"):  # one file where case does not count
            file.writestr(zipfile.ZipInfo(name, archive.EPOCH), b"x")
    with pytest.raises(ArtifactError, match="same name"):
        archive.unpack(tmp_path / "x.zip", tmp_path / "out")
    monkeypatch.setattr(archive, "FILES", 1)
    with pytest.raises(ArtifactError, match="2 entries; a package has at most 1"):
        archive.unpack(tmp_path / "x.zip", tmp_path / "out")


def test_a_name_that_no_disk_keeps_is_refused_before_anything_is_unpacked(tmp_path: Path) -> None:
    archive.unpack(hostile(tmp_path / "x.zip", "a" * 255), tmp_path / "in")
    with pytest.raises(ArtifactError, match="has a name of more than 255 bytes"):
        archive.unpack(hostile(tmp_path / "x.zip", "deep/" + "a" * 256), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_the_disk_refuses_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hostile(tmp_path / "x.zip", "a")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", full)  # a disk cannot be filled here
    with pytest.raises(ArtifactError, match=r"cannot be unpacked: .*No space left"):
        archive.unpack(path, tmp_path / "out")


def test_a_file_in_the_place_of_a_folder_is_damage(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        for name in ("a", "a/b"):
            entry = zipfile.ZipInfo(name, archive.EPOCH)
            entry.create_system, entry.external_attr = 3, archive.MODE << 16
            file.writestr(entry, b"x")
    with pytest.raises(ArtifactError, match="is damaged"):
        archive.unpack(tmp_path / "x.zip", tmp_path / "out")


def test_a_form_of_a_later_dlc_is_named(signed: Path, tmp_path: Path, cli: Cli) -> None:
    archive.unpack(signed, tmp_path / "content")
    record.seal(
        tmp_path / "content", msgspec.structs.replace(record.read(tmp_path / "content"), form="toaster", signer=None)
    )
    (tmp_path / "content" / record.SIGNATURE).unlink()
    ran = cli("verify", tmp_path / "content", "--trust")
    assert ran.code == 2
    assert "form 'toaster' is none that this dlc knows: it has onnx" in ran.err


def test_a_file_that_is_no_zip_says_so(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "x.zip").write_bytes(b"hello")
    ran = cli("verify", tmp_path / "x.zip")
    assert ran.code == 1
    assert "is damaged, or is no zip" in ran.out


@pytest.mark.parametrize("kind", ["missing", "rsa", "text"])
def test_a_key_that_is_none_says_how_to_make_one(kind: str, signed: Path, tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "bad.pem"
    if kind == "text":
        path.write_text("no key")
    elif kind == "rsa":
        from cryptography.hazmat.primitives import serialization as form
        from cryptography.hazmat.primitives.asymmetric import ec

        public = ec.generate_private_key(ec.SECP256R1()).public_key()
        path.write_bytes(public.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    ran = cli("verify", signed, "--key", path)
    assert ran.code == 2
    assert signing.MAKE_KEYS in ran.err


def test_the_commands_that_make_keys_work(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    subprocess.run(signing.MAKE_KEYS, shell=True, cwd=tmp_path, check=True, capture_output=True)
    private = signing.load_private(tmp_path / "key.pem")
    public = signing.load_public(tmp_path / "pub.pem")
    assert signing.fingerprint(private.public_key()) == signing.fingerprint(public)


def test_only_a_bundle_is_signed_and_an_artifact_is_not(compiled: Path, keys: tuple[Path, Path], cli: Cli) -> None:
    ran = cli("package", compiled / "int8", "--as", "onnx", "--sign", keys[0])
    assert ran.code == 2
    assert "write --as bundle --of onnx" in ran.err
    assert cli("package", compiled / "int8", "--as", "onnx", "--of", "c").code == 2
    ran = cli("verify", compiled, "--key", keys[1])
    assert ran.code == 2
    assert "only packages are signed" in ran.err


def test_without_the_library_the_message_says_what_to_install(signed: Path, keys: tuple[Path, Path]) -> None:
    code = f"""
import sys
sys.modules["cryptography"] = sys.modules["cryptography.hazmat.primitives"] = None
from dlc.cli import run
sys.exit(run(["verify", {str(signed)!r}, "--key", {str(keys[1])!r}]))
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert child.returncode == 3
    assert "pip install 'dlc[package]'" in child.stderr


def test_the_sbom_is_cyclonedx_and_names_model_and_runtime(signed: Path, tmp_path: Path) -> None:
    import json

    schemas = pytest.importorskip("cyclonedx.schema", reason="needs cyclonedx-python-lib")
    from jsonschema import Draft7Validator
    from referencing import Registry, Resource

    archive.unpack(signed, tmp_path / "content")
    document = json.loads((tmp_path / "content" / "sbom.cdx.json").read_text())
    folder = Path(schemas.__file__).parent / "_res"
    contents = {
        name: json.loads((folder / f"{name}.SNAPSHOT.schema.json").read_text())
        for name in ("bom-1.6", "spdx", "jsf-0.82")
    }
    registry: Registry = Registry().with_resources(
        (f"http://cyclonedx.org/schema/{name}.SNAPSHOT.schema.json", Resource.from_contents(c))
        for name, c in contents.items()
    )
    assert list(Draft7Validator(contents["bom-1.6"], registry=registry).iter_errors(document)) == []
    digest = hashlib.sha256((tmp_path / "content" / "int8" / "model.onnx").read_bytes()).hexdigest()
    assert document["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert document["components"][0]["purl"].startswith("pkg:pypi/onnxruntime@")
