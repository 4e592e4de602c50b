"""What the machine can do is measured once, and then known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dlc.cost_table import CostTable
from dlc.peaks import peaks
from dlc.target import detect


def test_a_second_compile_measures_nothing(tmp_path: Path) -> None:
    """Two measurements never agree to the last digit; what is recalled does."""
    file = tmp_path / "costs.sqlite"
    first = peaks(detect(), CostTable(file))
    assert first is not None
    assert peaks(detect(), CostTable(file)) == first
    carried = CostTable(file).everything(detect().fingerprint)
    assert len(carried) == 2  # a target file takes both along
    assert peaks(detect(), CostTable(None, carried)) == first
    assert peaks(detect(), CostTable()) != first


def test_what_another_machine_measured_is_not_this_one_s(tmp_path: Path) -> None:
    elsewhere = replace(detect(), isa=("sse",), runtime="onnxruntime 1.0.0")
    table = CostTable(tmp_path / "costs.sqlite")
    assert peaks(elsewhere, table) == peaks(detect(), table)
    assert table.everything(elsewhere.fingerprint).keys() == CostTable(table.file).everything(
        detect().fingerprint
    ).keys()  # fmt: skip


def test_the_order_of_the_peaks_is_that_of_the_hardware() -> None:
    found = peaks(detect(), CostTable())
    assert found is not None
    assert found.cache_bytes >= found.bytes > 0
    assert min(found.float_ops, found.integer_ops) > 1e8  # a product in plain C on one core


def test_threads_have_peaks_of_their_own(tmp_path: Path) -> None:
    table = CostTable(tmp_path / "costs.sqlite")
    assert peaks(detect(threads=1), table) != peaks(detect(threads=2), table)


def test_a_gpu_has_none_here() -> None:
    assert peaks(replace(detect(), provider="cuda"), CostTable()) is None
