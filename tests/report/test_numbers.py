from __future__ import annotations

import pytest

from dlc.manifest import Estimate
from dlc.report import numbers

INTERVAL = Estimate(value=0.9983, low=0.995, high=1.00174)


@pytest.mark.parametrize(
    ("count", "written"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.000 KiB"), (69_400, "67.77 KiB"), (1 << 20, "1.000 MiB"),
     ((1 << 20) - 1, "1024 KiB"), (5 << 40, "5.000 TiB"), (1 << 60, "1048576 TiB")],
)  # fmt: skip
def test_size(count: int, written: str) -> None:
    assert numbers.size(count) == written


@pytest.mark.parametrize(
    ("value", "written"), [(0.17134, "0.1713"), (35.2, "35.20"), (1234.5, "1234"), (0.0, "0"), (9.9999, "10.000")]
)
def test_significant(value: float, written: str) -> None:
    assert numbers.significant(value, 4) == written


def test_intervals() -> None:
    assert numbers.percents(INTERVAL) == "99.83 % [99.50, 100.17]"
    assert numbers.ratio(INTERVAL) == "0.998× [0.995, 1.002]"
    assert numbers.metric(Estimate(value=82.03, low=80.1, high=83.9), "×100") == "82.03 [80.10, 83.90]"
    assert numbers.metric(Estimate(value=97.66, low=96.49, high=98.66), "%") == "97.66 % [96.49, 98.66]"


def test_a_cosine_below_one_is_never_written_as_one() -> None:
    assert numbers.cosine(1.0) == "1.00000"
    assert numbers.cosine(0.99998) == "0.99998"
    assert numbers.cosine(1 - 3.1e-7) == "1 - 3.1e-07"


def test_divergence_keeps_two_digits() -> None:
    assert [numbers.nats(each) for each in (0.0, 2.4e-6, 0.00312)] == ["0 nats", "2.4e-06 nats", "0.0031 nats"]


def test_long_names_keep_both_ends() -> None:
    name = "/model/" + "x" * 200 + "/output"
    short = numbers.shorten(name)
    assert len(short) == numbers.LONGEST_NAME
    assert short.startswith("/model/")
    assert short.endswith("/output")
    assert numbers.shorten("short") == "short"


def test_legible_replaces_only_what_xml_forbids() -> None:
    assert numbers.legible("a\x00b\x1bc\ufffed\ud800e\tf\n\u00e9😀") == "a\ufffdb\ufffdc\ufffdd\ufffde\tf\n\u00e9😀"


@pytest.mark.parametrize(
    ("time", "written"), [(35.2, "35.20 ms"), (0.1, "0.1000 ms"), (0.09235, "0.0924 ms"), (0.0004321, "0.0004321 ms")]
)
def test_milliseconds(time: float, written: str) -> None:
    assert numbers.milliseconds(time) == written
