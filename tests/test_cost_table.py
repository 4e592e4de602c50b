"""What is remembered, for whom, and what a target file brings along."""

from __future__ import annotations

from pathlib import Path

from dlc.cost_table import Cost, CostTable
from dlc.manifest import Estimate


def cost(ratio: float) -> Cost:
    return Cost(before_ns=1000.0, after_ns=1000.0 * ratio, ratio=Estimate(value=ratio, low=ratio, high=ratio))


def test_what_is_written_is_read_by_the_next(tmp_path: Path) -> None:
    CostTable(tmp_path / "costs.sqlite").write("key", "me", cost(0.5))
    assert CostTable(tmp_path / "costs.sqlite").read("key") == cost(0.5)
    assert CostTable(tmp_path / "costs.sqlite").read("other") is None


def test_without_a_file_only_this_table_remembers() -> None:
    table = CostTable()
    table.write("key", "me", cost(0.5))
    assert table.read("key") == cost(0.5)
    assert CostTable().read("key") is None


def test_everything_of_one_target(tmp_path: Path) -> None:
    file = tmp_path / "costs.sqlite"
    CostTable(file).write("b", "me", cost(0.5))
    CostTable(file).write("a", "me", cost(0.6))
    CostTable(file).write("c", "another", cost(0.7))
    assert CostTable(file).everything("me") == {"a": cost(0.6), "b": cost(0.5)}
    assert list(CostTable(file).everything("me")) == ["a", "b"]


def test_what_was_carried_counts_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "costs.sqlite"
    CostTable(file).write("a", "me", cost(0.5))
    assert CostTable(file, {"a": cost(0.9)}).read("a") == cost(0.9)
