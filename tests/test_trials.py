"""Answers outlive the process that found them, and serve no other reduction."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlc.errors import UserError
from dlc.trials import Trials, ranges


def test_ranges() -> None:
    assert [ranges(p) for p in ([], [3], range(5), [0, 1, 4, 6, 7])] == ["", "3", "0-4", "0-1,4,6-7"]


def test_answers_are_there_again(tmp_path: Path) -> None:
    first = Trials(tmp_path / "j", "key")
    first.add([0, 1, 2], "NaN")
    first.add([2], None)
    assert Trials(tmp_path / "j", "key").known == {"0-2": "NaN", "2": None}


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    Trials(tmp_path / "j", "key").add([0, 1], "NaN")
    with (tmp_path / "j").open("ab") as file:
        file.write(b'{"type":"tried","kept":"0')
    Trials(tmp_path / "j", "key").add([5], None)
    assert Trials(tmp_path / "j", "key").known == {"0-1": "NaN", "5": None}


def test_another_reduction_is_refused(tmp_path: Path) -> None:
    Trials(tmp_path / "j", "key")
    with pytest.raises(UserError, match="of another model, or on other terms; remove it"):
        Trials(tmp_path / "j", "other")
    (tmp_path / "j").write_text("notes\n")
    with pytest.raises(UserError, match="remove it"):
        Trials(tmp_path / "j", "key")
