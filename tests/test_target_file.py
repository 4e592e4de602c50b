from __future__ import annotations

from pathlib import Path

import pytest

from dlc.cost_table import Cost
from dlc.errors import UserError
from dlc.manifest import Estimate
from dlc.target import detect
from dlc.target_file import load, save


def test_round_trip(tmp_path: Path) -> None:
    saved = detect()
    save(tmp_path / "target.json", saved)
    assert load(tmp_path / "target.json") == (saved, None)


def test_costs_come_along(tmp_path: Path) -> None:
    cost = Cost(before_ns=3.0, after_ns=1.5, ratio=Estimate(value=0.5, low=0.4, high=0.6))
    save(tmp_path / "target.json", detect(), {"key": cost})
    assert load(tmp_path / "target.json") == (detect(), {"key": cost})


def test_no_costs_yet_is_not_the_same_as_none(tmp_path: Path) -> None:
    save(tmp_path / "target.json", detect(), {})
    assert load(tmp_path / "target.json") == (detect(), {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("not json", "malformed"),
        ('{"provider": "tpu"}', "Invalid enum value"),
        ('{"provider": "cpu"}', "missing required field"),
        (
            '{"provider":"cpu","arch":"a","isa":[],"threads":0,"runtime":"r","opset":20,"ir_version":10}',
            "threads=0",
        ),
    ],
)
def test_a_file_that_is_no_target(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "target.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        load(path)
