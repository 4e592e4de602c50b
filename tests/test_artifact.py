"""The artifact folder: all or nothing on disk, and every byte accounted for."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from dlc.artifact import CHECKSUMS, MANIFEST, faults, read_golden, seal, staging, write_golden
from dlc.errors import ArtifactError


def filled(folder: Path) -> Path:
    """Make a sealed folder of a few small files."""
    (folder / "int8").mkdir(parents=True)
    (folder / MANIFEST).write_text('{"schema": "dlc-manifest/1"}')
    (folder / "int8" / "model.onnx").write_bytes(bytes(range(256)))
    (folder / "int8" / "session.json").write_text("{}")
    seal(folder)
    return folder


def test_staging_moves_the_whole_folder_into_place(tmp_path: Path) -> None:
    with staging(tmp_path / "deep" / "a", overwrite=False) as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "deep" / "a").exists()
    assert (tmp_path / "deep" / "a" / "x").read_text() == "1"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()], ids=["exception", "ctrl-c"])
def test_an_interrupted_block_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), staging(tmp_path / "a", overwrite=False) as folder:
        (folder / "x").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_failed_overwrite_keeps_the_old_artifact(tmp_path: Path) -> None:
    old = filled(tmp_path / "a")
    with pytest.raises(ValueError, match="boom"), staging(old, overwrite=True) as folder:
        (folder / "x").write_text("half")
        raise ValueError("boom")
    assert faults(old) == []
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_overwrite_replaces_an_artifact(tmp_path: Path) -> None:
    old = filled(tmp_path / "a")
    with staging(old, overwrite=True) as folder:
        (folder / "new").write_text("1")
    assert [p.name for p in old.iterdir()] == ["new"]


def test_existing_folder_is_refused_with_the_way_out(tmp_path: Path) -> None:
    old = filled(tmp_path / "a")
    with pytest.raises(ArtifactError, match="--overwrite"), staging(old, overwrite=False):
        pass


def test_overwrite_leaves_a_folder_alone_that_is_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match="not an artifact"), staging(tmp_path / "thesis", overwrite=True):
        pass
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"


def test_a_file_where_the_parent_should_be_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"), staging(tmp_path / "file" / "a", overwrite=False):
        pass


def test_sealed_folder_has_no_faults(tmp_path: Path) -> None:
    assert faults(filled(tmp_path / "a")) == []


def test_every_byte_of_every_file_is_covered(tmp_path: Path) -> None:
    folder = filled(tmp_path / "a")
    rng = random.Random(0)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for position in range(len(whole)):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << rng.randrange(8)
            path.write_bytes(flipped)
            assert faults(folder), f"a flip at byte {position} of {path.name} went unnoticed"
        path.write_bytes(whole)
    assert faults(folder) == []


def test_added_removed_and_renamed_files_are_named(tmp_path: Path) -> None:
    folder = filled(tmp_path / "a")
    (folder / "extra").write_text("")
    assert faults(folder) == [f"extra is not listed in {CHECKSUMS}"]
    (folder / "extra").unlink()
    shutil.move(folder / "int8" / "session.json", folder / "int8" / "options.json")
    assert faults(folder) == [f"int8/options.json is not listed in {CHECKSUMS}", "int8/session.json is missing"]
    (folder / CHECKSUMS).unlink()
    assert faults(folder) == [f"{CHECKSUMS} is missing"]


def test_links_and_odd_names_are_faults_not_crashes(tmp_path: Path) -> None:
    folder = filled(tmp_path / "a")
    model = folder / "int8" / "model.onnx"
    shutil.copy(model, tmp_path / "same.onnx")
    model.unlink()
    model.symlink_to(tmp_path / "same.onnx")  # equal bytes, but whoever owns the other file can change them
    assert faults(folder) == ["int8/model.onnx is a symbolic link"]
    model.unlink()
    shutil.copy(tmp_path / "same.onnx", model)
    assert faults(folder) == []
    (Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9"))).write_text("")
    assert faults(folder) == [f"caf\\udce9 is not listed in {CHECKSUMS}"]


def test_an_artifact_that_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="exists"), staging(tmp_path / "a", overwrite=False) as folder:
        (folder / "x").write_text("slow")
        filled(tmp_path / "a")
    assert faults(tmp_path / "a") == []


def test_golden_vectors_come_back(tmp_path: Path) -> None:
    vectors = [
        ({"a.b": np.ones((2, 3), np.float32)}, {"y": np.arange(4)}),
        ({"a.b": np.zeros((1, 3), np.float32)}, {"y": np.arange(2)}),
    ]
    write_golden(tmp_path, vectors)  # type: ignore[arg-type]
    for (feeds, outputs), (known_feeds, known_outputs) in zip(read_golden(tmp_path), vectors, strict=True):
        np.testing.assert_array_equal(feeds["a.b"], known_feeds["a.b"])
        np.testing.assert_array_equal(outputs["y"], known_outputs["y"])
    assert (tmp_path / "golden.safetensors").stat().st_mode & 0o044 == 0o044 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
