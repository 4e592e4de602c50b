"""Whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from dlc.whole_file import probe, write_whole


def test_what_fails_half_way_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "f.md"
    write_whole(path, b"earlier")
    text: Any = "no bytes, which the open file finds out"
    with pytest.raises(TypeError):
        write_whole(path, text)
    assert path.read_bytes() == b"earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["f.md"]


def test_folders_are_made_and_permissions_kept(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "f.md"
    write_whole(path, b"1")
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    path.chmod(0o640)
    write_whole(path, b"2")
    assert (path.stat().st_mode & 0o777, path.read_bytes()) == (0o640, b"2")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "f.md")
    write_whole(tmp_path / "link", b"1")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "f.md").read_bytes() == b"1"


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    pipe, heard = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    reader.start()
    probe(pipe)
    write_whole(pipe, b"1")
    reader.join(10)
    assert heard == [b"1"]
    assert pipe.is_fifo()


def test_a_probe_leaves_nothing(tmp_path: Path) -> None:
    probe(tmp_path / "a" / "b" / "f.md")
    (tmp_path / "f.md").touch()
    probe(tmp_path / "f.md")
    assert [p.name for p in tmp_path.iterdir()] == ["f.md"]


def test_what_cannot_be_written_is_found_before(tmp_path: Path) -> None:
    (tmp_path / "f.md").touch()
    with pytest.raises(IsADirectoryError):
        probe(tmp_path)
    with pytest.raises(NotADirectoryError):
        probe(tmp_path / "f.md" / "g.md")
