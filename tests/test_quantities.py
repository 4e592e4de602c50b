from __future__ import annotations

import pytest

from dlc.errors import RecipeError
from dlc.quantities import seconds, size


@pytest.mark.parametrize(("text", "expected"), [("90s", 90.0), ("10min", 600.0), ("1.5 h", 5400.0)])
def test_times(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("8MB", 8_000_000), ("8MiB", 8 << 20), ("0.5 kB", 500), ("7B", 7)])
def test_sizes(text: str, expected: int) -> None:
    assert size(text) == expected


@pytest.mark.parametrize("text", ["8", "MB", "8 mb", "-8MB", "8MB8", ""])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(RecipeError, match="like 8MB"):
        size(text)


def test_a_size_is_no_time() -> None:
    with pytest.raises(RecipeError, match="is no time"):
        seconds("8MB")
