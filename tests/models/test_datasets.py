from __future__ import annotations

from pathlib import Path

import pytest

from dlc.errors import DataError
from dlc.models.datasets import data_root


def test_unset_means_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DLC_DATA", raising=False)
    assert data_root() is None
    monkeypatch.setenv("DLC_DATA", "")
    assert data_root() is None


def test_a_folder_is_returned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DLC_DATA", str(tmp_path))
    assert data_root() == tmp_path


def test_what_is_no_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DLC_DATA", str(tmp_path / "missing"))
    with pytest.raises(DataError, match="missing"):
        data_root()
